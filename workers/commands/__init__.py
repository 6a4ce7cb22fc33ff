"""The command table: one file per family, one row per command; C runs what the rows name."""
