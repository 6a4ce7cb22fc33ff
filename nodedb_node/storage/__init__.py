"""The write-ahead log of one worker: its directory, recovery, compaction, and looking at it."""
