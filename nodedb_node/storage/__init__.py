"""The write-ahead log of one worker: its directory, recovery, compaction, and the one-voter log over it."""
