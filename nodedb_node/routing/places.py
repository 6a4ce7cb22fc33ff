"""Which vShards make a group and which worker runs it, as arithmetic.

Invariant: groups are contiguous runs of vShards and workers contiguous runs of groups, so that a worker's place in the
key space is one range and splitting a group never moves a key to another worker. The number of groups is a power of
two, fixed when a data directory is made. What a group owns after moves is state of its own log, not of this file.
"""

from nodedb_node.ids import Group, VShard, Worker

VSHARDS = 1024
GROUPS_MIN = 8
GROUPS_PER_WORKER = 4


def default_groups(workers: int) -> int:
    """Groups of a new data directory: a power of two, at least 8 and four per worker, at most one per vShard."""
    assert 1 <= workers <= VSHARDS
    wanted = max(GROUPS_MIN, GROUPS_PER_WORKER * workers)
    return min(1 << (wanted - 1).bit_length(), VSHARDS)


def vshards_of_group(group: int, groups: int) -> range:
    """The vShards of a group, in order."""
    assert 0 <= group < groups <= VSHARDS
    per = VSHARDS // groups
    return range(group * per, (group + 1) * per)


def group_of_vshard(vshard: int, groups: int) -> Group:
    return Group(vshard * groups // VSHARDS)


def worker_of_group(group: int, groups: int, workers: int) -> Worker:
    """By the group's first vShard."""
    return Worker(vshards_of_group(group, groups)[0] * workers // VSHARDS)


def worker_of_vshard(vshard: int, groups: int, workers: int) -> Worker:
    return worker_of_group(group_of_vshard(vshard, groups), groups, workers)


def groups_of_worker(worker: int, groups: int, workers: int) -> list[Group]:
    return [Group(group) for group in range(groups) if worker_of_group(group, groups, workers) == worker]


def vshards_of_worker(worker: int, groups: int, workers: int) -> list[VShard]:
    return [VShard(v) for group in groups_of_worker(worker, groups, workers) for v in vshards_of_group(group, groups)]
