"""InstallSnapshot in chunks: what travels, the machine that sends, the machine that receives: pure, but for desk.py,
which has the turn's work done.
"""
