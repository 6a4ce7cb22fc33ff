"""The order of changes: durable first, done when every serving worker has it, nobody welcome before that."""

from nodedb_node.acl.book import Book, Letter
from nodedb_node.acl.denials import ENTRIES_MAX, Denials
from nodedb_node.acl.messages import Change, Denial, Result, Users


class Desk:
    """A book and what it was asked to store."""

    def __init__(self, settled: bool = True) -> None:
        self.stored: list[int] = []
        self.book = Book({b"a": b"1"}, 7, settled, lambda puts, drops, version: self.stored.append(version))

    def serving(self, *workers: int) -> "Desk":
        for worker in workers:
            self.book.came(worker)
            assert Letter(worker, None) in self.book.acked(worker, self.book.version)
        return self


def put(expected: int, **users: str) -> Change:
    return Change(expected, [(name.encode(), record.encode()) for name, record in users.items()])


def test_a_new_worker_gets_everything_and_is_welcome_when_it_has_it() -> None:
    book = Desk().book
    assert book.came(1) == [Letter(1, Users(7, True, False, [(b"a", b"1")], []))]
    assert book.acked(1, 7) == [Letter(1, None)]
    assert book.acked(1, 7) == []


def test_a_change_is_answered_when_every_serving_worker_has_it() -> None:
    desk = Desk().serving(1, 2)
    desk.book.came(3)  # recovers still: told, but not waited for
    letters = desk.book.change(1, 50, put(7, b="2"))
    assert desk.stored == [8]
    assert [letter.worker for letter in letters] == [1, 2, 3]
    assert desk.book.acked(1, 8) == []
    assert desk.book.acked(2, 8) == [Letter(1, Result(True), 50)]


def test_a_late_worker_is_welcomed_behind_the_change() -> None:
    desk = Desk().serving(1)
    desk.book.came(2)
    desk.book.change(1, 50, put(7, b="2"))
    assert desk.book.acked(1, 8) == [Letter(1, Result(True), 50)]
    assert desk.book.acked(2, 7) == [Letter(2, None)]  # the ring holds the change before the welcome


def test_a_change_from_an_older_version_is_refused() -> None:
    desk = Desk().serving(1, 2)
    desk.book.change(1, 50, put(7, b="2"))
    assert desk.book.change(2, 51, put(7, c="3")) == [Letter(2, Result(False), 51)]
    assert desk.stored == [8]


def test_a_dead_worker_is_not_waited_for() -> None:
    desk = Desk().serving(1, 2)
    desk.book.change(1, 50, put(7, b="2"))
    desk.book.acked(1, 8)
    assert desk.book.went(2) == [Letter(1, Result(True), 50)]


def test_who_asked_and_died_is_not_answered() -> None:
    desk = Desk().serving(1, 2)
    desk.book.change(1, 50, put(7, b="2"))
    desk.book.acked(2, 8)
    assert desk.book.went(1) == []


def test_nobody_is_welcome_before_the_configuration_is_brought_in() -> None:
    desk = Desk(settled=False)
    news = desk.book.came(1)[0].message
    assert isinstance(news, Users) and news.unsettled
    assert desk.book.acked(1, 7) == []
    desk.book.came(2)
    letters = desk.book.change(1, 50, Change(7, settles=True))
    assert desk.stored == []
    assert letters == [Letter(1, Result(True), 50), Letter(1, None)]
    assert desk.book.acked(2, 7) == [Letter(2, None)]


def denial(object: bytes, at_ms: int) -> Denial:
    return Denial("key", "toplevel", object, b"app", "id=1", at_ms)


def test_repetitions_within_a_minute_are_one_entry() -> None:
    denials = Denials()
    for at_ms in (0, 30_000, 59_000):
        denials.add(denial(b"k", at_ms))
    denials.add(denial(b"other", 59_000))
    denials.add(denial(b"k", 70_000))
    assert [(entry.object, entry.count) for entry in denials.newest(10)] == [(b"k", 4), (b"other", 1)]
    denials.add(denial(b"k", 200_000))
    assert [entry.count for entry in denials.newest(10)] == [1, 4, 1]


def test_the_log_of_denials_is_bounded() -> None:
    denials = Denials()
    for number in range(2 * ENTRIES_MAX):
        denials.add(denial(b"%d" % number, 0))
    assert len(denials.newest(1 << 30)) == ENTRIES_MAX
    assert denials.newest(-1) == []
    denials.reset()
    assert denials.newest(10) == []
