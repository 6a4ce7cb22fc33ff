"""Books against a model: what Raft recorded is what a restart finds, cut anywhere; and the running log's book is that
book already."""

import random
from typing import Any

import pytest

from nodedb_node.multiraft import books
from nodedb_node.native import wal
from nodedb_node.native.wal import Book, GroupBook, Record
from nodedb_node.native.walio import IoConfig
from nodedb_node.raft import configuration as configurations
from nodedb_node.raft.messages import CONFIG, DATA, NOOP, Append, Entry, HardState, QuarantineMark, Reset, Truncate
from nodedb_node.storage import recovery
from nodedb_node.storage.recovery import Recovered
from tests.conformance.wal_disk import SimIo, SimSegments
from tests.seeds import run_seed

GROUPS = (0, 3, 9)
SEGMENT_BYTES = 32 * 1024


class Model:
    """What must be known of one group."""

    def __init__(self) -> None:
        self.hard = (0, 0, 0)
        self.mark = (0, 0)
        self.entries: dict[int, Entry] = {}
        self.configs: dict[int, bytes] = {0: founders(1)}
        self.quarantined = False
        self.replica, self.removed = 0, False

    def copy(self) -> "Model":
        other = Model.__new__(Model)
        other.__dict__ = {k: dict(v) if isinstance(v, dict) else v for k, v in self.__dict__.items()}
        return other

    @property
    def last(self) -> int:
        return max(self.entries, default=self.mark[0])

    @property
    def last_term(self) -> int:
        return self.entries[self.last].term if self.entries else self.mark[1]

    def cut(self, last: int) -> None:
        self.entries = {i: e for i, e in self.entries.items() if i <= last}
        base = max(i for i in self.configs if i <= self.mark[0])
        self.configs = {i: c for i, c in self.configs.items() if i <= max(last, base)}

    def put(self, first: int, entries: list[Entry]) -> None:
        self.cut(first - 1)
        for index, entry in enumerate(entries, first):
            self.entries[index] = entry
            if entry.kind == CONFIG:
                self.configs[index] = entry.data

    def compact(self, index: int, term: int) -> None:
        self.mark = (index, term)
        self.entries = {i: e for i, e in self.entries.items() if i > index}
        base = max(i for i in self.configs if i <= index)
        self.configs = {i: c for i, c in self.configs.items() if i >= base}

    def check(self, found: GroupBook, log: Book, group: int) -> None:
        if self.removed:
            assert (found.removed, found.replica, found.configs, found.last) == (True, self.replica, [], 0)
            return
        assert (found.hard_state or (0, 0, 0)) == self.hard
        assert (found.compact_index, found.compact_term) == self.mark
        assert (found.first, found.last, found.last_term) == (self.mark[0] + 1, self.last, self.last_term)
        assert {row.index: row.data for row in found.configs} == self.configs
        assert (found.quarantined, found.replica, found.removed) == (self.quarantined, self.replica, False)
        restored = books.restored(group, log, self.mark[0], promised=False)
        kinds = [(e.term, e.kind, e.size_bytes) for e in restored.entries]
        assert kinds == [(e.term, e.kind, e.size_bytes) for _, e in sorted(self.entries.items())]
        assert [e.data for e in restored.entries if e.kind == CONFIG] == [
            e.data for _, e in sorted(self.entries.items()) if e.kind == CONFIG
        ]
        assert configurations.encode(restored.configuration) == self.configs[min(self.configs)]


def founders(*nodes: int) -> bytes:
    return configurations.encode(configurations.founding([*nodes]))  # type: ignore[list-item]


class Life:
    """One process on the disk: the writer and its live book."""

    def __init__(self, disk: SimSegments, recovered: Recovered) -> None:
        recovered.drop_unused()
        again, end, segments = recovered.again(), recovered.end, recovered.segments
        newest = segments[-1].header.number if segments else 0
        self.io = SimIo(
            disk,
            IoConfig(
                *("sim", "thread", True, 7, segments[0].header.number if segments else 1, newest + 1),
                recovered.sequence + (0 if again else 1),
                0 if end is None else end.prev_crc if again else end.crc,
                wal.FLAG_AGAIN if again else 0,
                *(SEGMENT_BYTES, SEGMENT_BYTES, 1 << 20, 0, 0),
            ),
        )
        self.book = recovered.book
        self.last = wal.group_array()
        if again:
            self.write(again)
            self.io.complete()
            self.io.reap()

    def write(self, records: list[Record]) -> None:
        array, keep = wal.records_array(records)
        assert self.io.append(array, len(records), True)
        self.book.write(array, len(records), self.io.segment(), self.io.append_off(), self.last)
        del keep


def some_entries(rng: random.Random, model: Model, term: int) -> list[Entry]:
    rows = []
    for _ in range(rng.randrange(1, 4)):
        kind = rng.choice((DATA, DATA, DATA, NOOP, CONFIG))
        data = {DATA: rng.randbytes(rng.randrange(1500)), NOOP: b"", CONFIG: founders(1, rng.randrange(2, 9))}[kind]
        rows.append(Entry(term, kind, len(data), data))
    return rows


def something(rng: random.Random, model: Model) -> Any:
    """One record of Raft for a group, and what it does to the model."""
    if model.removed:
        model.__init__()  # type: ignore[misc]
        model.replica = rng.randrange(10, 1 << 30)
        return books.Carried(replica=model.replica, configuration=model.configs[0])
    draw = rng.random()
    if draw < 0.25:
        model.hard = (model.hard[0] + 1, rng.randrange(1, 9), rng.randrange(9))
        return HardState(*model.hard)
    if draw < 0.65:
        model.hard = (max(model.hard[0], model.last_term, 1), *model.hard[1:])
        entries, first = some_entries(rng, model, model.hard[0]), model.last + 1
        if rng.random() < 0.2 and model.entries:
            first = rng.choice(sorted(model.entries))  # written over, as a new leader does
        model.put(first, entries)
        return [HardState(*model.hard), Append(first, entries)]
    if draw < 0.75 and model.entries:
        last = rng.randrange(model.mark[0], model.last + 1)
        model.cut(last)
        return Truncate(last)
    if draw < 0.8:
        model.quarantined = not model.quarantined
        return QuarantineMark(model.quarantined)
    if draw < 0.85:
        index, keep = model.last + rng.randrange(1, 9), rng.random() < 0.5
        term = max(model.last_term, 1)
        model.cut(index)
        model.compact(index, term)
        model.configs = {index: founders(1, 2)}
        model.entries = {}
        return Reset(index, term, keep, index, founders(1, 2))
    if draw < 0.87:
        model.removed = True
        return None
    return HardState(*model.hard)


def records_of(group: int, made: Any, model: Model) -> list[Record]:
    if made is None:
        return [books.tombstone(group, model.replica)]  # type: ignore[arg-type]
    if isinstance(made, books.Carried):
        return books.beginning(group, made, 0, 0)
    rows = made if isinstance(made, list) else [made]
    return [record for row in rows for record in books.written(group, row)]


def compaction(rng: random.Random, life: Life, models: dict[int, Model]) -> list[Record]:
    """Marks at random indexes, and everything that must stay, from the live book."""
    records = []
    for group, model in models.items():
        found = life.book.group(group)
        if not found.known:
            continue
        mark = model.mark
        if model.entries and not model.removed and rng.random() < 0.7:
            index = rng.choice(sorted(model.entries))
            mark = (index, model.entries[index].term)
            model.compact(*mark)
        records += books.rewritten(group, life.book, mark)
    return records


@pytest.mark.parametrize("part", range(4))
def test_lives_cut_at_any_append_find_what_was_recorded(part: int) -> None:
    rng = random.Random(run_seed() + part)
    disk, models = SimSegments(), {group: Model() for group in GROUPS}
    before = {group: model.copy() for group, model in models.items()}
    born = False
    for life_number in range(40):
        recovered = recovery.recover(disk)
        check(recovered.book, models, before, born, life_number)
        if born and not matches(recovered.book, models):
            models = {group: model.copy() for group, model in before.items()}
        life = Life(disk, recovered)
        if not born or not recovered.book.group(GROUPS[0]).known:
            life.write([r for g in GROUPS for r in books.beginning(g, books.Carried(configuration=founders(1)), 0, 0)])
            life.io.complete()
            life.io.reap()
            models, born = {group: Model() for group in GROUPS}, True
        in_flight = False
        for _ in range(rng.randrange(1, 25)):
            before = {group: model.copy() for group, model in models.items()}
            if rng.random() < 0.1:
                records = compaction(rng, life, models)
            else:
                some = rng.sample(GROUPS, rng.randrange(1, len(GROUPS) + 1))
                records = [r for g in some for r in records_of(g, something(rng, models[g]), models[g])]
            life.write(records)
            for group, model in models.items():
                model.check(life.book.group(group), life.book, group)
            if in_flight := rng.random() < 0.08:
                break
            life.io.complete()
            life.io.reap()
        if not in_flight:
            before = {group: model.copy() for group, model in models.items()}
        life.book.close()
        share = rng.choice([0.0, 0.5, 1.0])
        disk = disk.crash(lambda i, share=share: rng.random() < share)  # type: ignore[misc]


def matches(book: Book, models: dict[int, Model]) -> bool:
    try:
        for group, model in models.items():
            model.check(book.group(group), book, group)
    except AssertionError:
        return False
    return True


def check(book: Book, models: dict[int, Model], before: dict[int, Model], born: bool, life: int) -> None:
    """All of the append in flight, or nothing of it."""
    if born and not matches(book, models):
        for group, model in before.items():
            print("life", life, "group", group)
            model.check(book.group(group), book, group)


def test_a_checkpoint_carries_the_configuration_in_force_where_it_is_cut() -> None:
    book = Book()
    records = books.beginning(5, books.Carried(4, 7, 2, 3, 6, founders(1, 2)), 100, 6)
    records.append(wal.Record(wal.ENTRY, 5, 7, 101, founders(1, 2, 3), wal.MEMBERS))
    records.append(wal.Record(wal.ENTRY, 5, 7, 102, b"x", wal.DATA))
    array, keep = wal.records_array(records)
    book.write(array, len(records), 1, 4096, wal.group_array())
    rows = [books.carried(book.group(5), at) for at in (100, 101, 102)]
    found = [(row.config_index, row.configuration) for row in rows]
    assert found == [(6, founders(1, 2)), (101, founders(1, 2, 3)), (101, founders(1, 2, 3))]
    del keep
    book.close()


def test_a_carried_group_begins_where_its_checkpoint_ends() -> None:
    book = Book()
    records = books.beginning(5, books.Carried(4, 7, 2, 3, 6, founders(1, 2)), 100, 6)
    array, keep = wal.records_array(records)
    book.write(array, len(records), 1, 4096, wal.group_array())
    found = books.restored(5, book, 100, promised=True)
    assert (found.term, found.vote, found.vote_replica) == (7, 2, 3)
    assert (found.mark_index, found.mark_term, found.config_index, found.entries) == (100, 6, 6, [])
    assert books.carried(book.group(5), 100) == books.Carried(4, 7, 2, 3, 6, founders(1, 2))
    del keep
    book.close()
