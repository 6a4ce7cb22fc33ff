"""All Raft groups of a process behind one coordinator (see ARCHITECTURE.md)."""
