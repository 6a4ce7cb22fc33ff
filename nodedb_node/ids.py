"""Numbers that must not be mixed up, as types.

Invariant: a slot, a vShard, a group, a worker and a process are all small integers; only the names tell them apart,
so every signature that takes one says which. Nothing is computed here (routing does that).
"""

from typing import NewType

Slot = NewType("Slot", int)  # 0..16383, CRC16 of the key's hash tag
VShard = NewType("VShard", int)  # 0..1023, slot // 16
Group = NewType("Group", int)  # data group of this layout, 0..groups - 1
Worker = NewType("Worker", int)  # 0..workers - 1
Process = NewType("Process", int)  # number in shared memory: 0 = control, worker + 1
NodeId = NewType("NodeId", str)  # 40 hex digits, made once per data directory
ClusterId = NewType("ClusterId", str)  # 32 hex digits
NodeNumber = NewType("NodeNumber", int)  # ≥ 1, of a node inside its cluster, given once and never again
GroupId = NewType("GroupId", int)  # of a Raft group in the cluster; 0 = metadata

CONTROL = Process(0)


def process_of_worker(worker: Worker) -> Process:
    return Process(worker + 1)


def process_name(process: Process) -> str:
    """The name in logs, metrics and process titles."""
    return "control" if process == CONTROL else f"worker-{process - 1}"
