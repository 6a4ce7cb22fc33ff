"""All Raft groups of one process: lanes, turns, storage books, watchers. One coordinator per process.

Invariant: everything here but log.py, start.py and snapshot/desk.py is pure: messages, times and completions in, a Turn
out. The rules of one group are nodedb_node.raft's; bytes of entries stay with C (csrc/engine.h, csrc/wal.h).

    messages.py   lane heartbeats, the Turn, a group's status
    lanes.py      liveness of peers, per lane, counted per group
    core.py       MultiRaft: group → machine; turns
    watchers.py   who waits until a group has applied an index
    books.py      records of Raft ↔ records of the log, recovery into raft.Restored
    transfers.py  snapshots of all groups: who sends, who receives, what the owner's disk does for it
    snapshot/     chunked snapshots between replicas
    log.py        the worker's log over all this (World file)
    start.py      from a log directory to a running log (World file)
"""
