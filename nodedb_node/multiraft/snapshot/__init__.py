"""InstallSnapshot in chunks: what travels, the machine that sends, the machine that receives. No IO in here."""
