"""The routing table: for each vShard the group, node and worker that serve it, and the epoch of that fact.

Invariant: one row per vShard, in order; an epoch never falls, and grows when the vShard's place changes. The table only
routes: what a group owns is state of its own log. Publishing it to the node's processes is native/page's part.
"""

from collections.abc import Sequence

from msgspec import Struct

from nodedb_node.ids import Group, VShard, Worker
from nodedb_node.routing.places import VSHARDS, group_of_vshard, worker_of_group

SLOTS = 16384
SLOTS_PER_VSHARD = SLOTS // VSHARDS
THIS_NODE = 0


class Route(Struct, frozen=True, gc=False):
    """Where a vShard is served."""

    group: Group
    node: int  # topology number of the group's leader node
    worker: Worker  # of that node
    epoch: int
    serving: bool = True


def vshard_of_slot(slot: int) -> VShard:
    assert 0 <= slot < SLOTS
    return VShard(slot // SLOTS_PER_VSHARD)


def one_node(groups: int, workers: int, epoch: int = 1) -> list[Route]:
    """The table of a node that serves everything itself."""
    routes = []
    for vshard in range(VSHARDS):
        group = group_of_vshard(vshard, groups)
        routes.append(Route(group, THIS_NODE, worker_of_group(group, groups, workers), epoch))
    return routes


def advanced(now: Sequence[Route], wanted: Sequence[Route]) -> list[Route]:
    """`wanted` with the epochs it must have after `now`: one more where the place differs, the same elsewhere."""
    assert len(now) == len(wanted) == VSHARDS
    rows = []
    for old, new in zip(now, wanted, strict=True):
        moved = (old.group, old.node, old.worker) != (new.group, new.node, new.worker)
        rows.append(Route(new.group, new.node, new.worker, old.epoch + moved, new.serving))
    return rows


def slot_ranges(routes: Sequence[Route], node: int, worker: int) -> list[tuple[int, int]]:
    """The slots a worker serves: inclusive, ascending, adjacent ranges joined."""
    ranges: list[tuple[int, int]] = []
    for vshard, route in enumerate(routes):
        if not route.serving or (route.node, route.worker) != (node, worker):
            continue
        first = vshard * SLOTS_PER_VSHARD
        last = first + SLOTS_PER_VSHARD - 1
        if ranges and ranges[-1][1] + 1 == first:
            ranges[-1] = (ranges[-1][0], last)
        else:
            ranges.append((first, last))
    return ranges
