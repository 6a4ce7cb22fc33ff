"""Groups, workers, epochs and slot ranges: every vShard has one place, whatever the numbers."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodedb_node.routing.places import VSHARDS, default_groups, groups_of_worker, vshards_of_group, vshards_of_worker
from nodedb_node.routing.table import SLOTS, THIS_NODE, Route, advanced, one_node, slot_ranges, vshard_of_slot
from nodedb_node.supervisor.datadir import groups_for

GROUPS = st.integers(3, 10).map(lambda power: 1 << power)
WORKERS = st.integers(1, 256)


@given(st.integers(1, 256))
def test_default_groups_are_those_of_a_new_data_directory(workers: int) -> None:
    groups = default_groups(workers)
    assert groups == groups_for(workers)
    assert groups >= max(8, 4 * workers) or groups == VSHARDS
    assert groups & (groups - 1) == 0


@settings(max_examples=30, deadline=None)
@given(GROUPS, WORKERS)
def test_every_vshard_has_one_group_and_one_worker(groups: int, workers: int) -> None:
    by_group = [vshard for group in range(groups) for vshard in vshards_of_group(group, groups)]
    assert by_group == list(range(VSHARDS))
    by_worker = [vshard for worker in range(workers) for vshard in vshards_of_worker(worker, groups, workers)]
    assert by_worker == list(range(VSHARDS))


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 256))
def test_with_its_own_default_every_worker_has_work(workers: int) -> None:
    assert all(groups_of_worker(worker, default_groups(workers), workers) for worker in range(workers))


@settings(max_examples=20, deadline=None)
@given(GROUPS, WORKERS)
def test_slot_ranges_cover_all_slots_once(groups: int, workers: int) -> None:
    routes = one_node(groups, workers)
    slots = [
        slot
        for worker in range(workers)
        for first, last in slot_ranges(routes, THIS_NODE, worker)
        for slot in range(first, last + 1)
    ]
    assert slots == list(range(SLOTS))
    for worker in range(workers):
        for first, _ in slot_ranges(routes, THIS_NODE, worker):
            assert routes[vshard_of_slot(first)].worker == worker


def test_a_place_that_moves_raises_its_epoch_only() -> None:
    now = one_node(8, 2)
    after = advanced(now, one_node(8, 3))
    for old, new in zip(now, after, strict=True):
        assert new.epoch == old.epoch + (old.worker != new.worker)
    assert any(new.epoch == 2 for new in after)
    assert any(new.epoch == 1 for new in after)


def test_what_is_not_served_is_in_no_range() -> None:
    routes = one_node(8, 1)
    hole = [Route(r.group, r.node, r.worker, r.epoch, serving=vshard != 5) for vshard, r in enumerate(routes)]
    assert slot_ranges(hole, THIS_NODE, 0) == [(0, 79), (96, SLOTS - 1)]


@pytest.mark.parametrize(("slot", "vshard"), [(0, 0), (15, 0), (16, 1), (16383, 1023)])
def test_vshard_of_slot(slot: int, vshard: int) -> None:
    assert vshard_of_slot(slot) == vshard
