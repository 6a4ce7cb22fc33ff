"""The worker's turn against an engine and a log that do as they are told."""

from typing import Any

from nodedb_node.clocks.hlc import Hlc
from nodedb_node.native import engine as native
from workers.shard.turn import Turns


class Stage:
    """Engine, log and hooks in one: notes what it is asked to do."""

    def __init__(self, takes: bool) -> None:
        self.takes = takes
        self.busy = False
        self.records = None
        self.commits = 0
        self.halts: list[tuple[int, str]] = []
        self.done: list[str] = []
        self.bits = native.PROPOSE | native.PAUSED

    def poll(self, now_us: int, stamp: int, rung: int) -> int:
        self.done.append("poll")
        return self.bits

    def reap(self) -> tuple[Any, int]:
        self.done.append("reap")
        return None, self.commits

    def seal(self, stamp: int, seed: int, now_us: int) -> int:
        return 1

    def sealed_needs_space(self) -> bool:
        return True

    def propose(self, records: Any, n: int, reserve: bool) -> bool:
        self.busy = self.takes
        return self.takes

    def take_halted(self) -> list[tuple[int, str]]:
        halts, self.halts = self.halts, []
        return halts

    def commit(self, commits: Any, n: int, now_us: int) -> int:
        self.done.append("commit")
        return self.bits

    def __getattr__(self, name: str) -> Any:
        def note(*_: object) -> int:
            self.done.append(name)
            return 0

        return note


def turns(stage: Any) -> Turns:
    return Turns(stage, stage, Hlc(0), stage, lambda: 1, lambda: 1)


def test_clients_rest_while_an_append_that_will_end_is_in_flight() -> None:
    stage = Stage(takes=True)
    turns(stage).on_clients()
    assert "watch_clients" in stage.done
    assert "proposed" in stage.done


def test_a_group_is_refused_between_two_appends_and_after_its_last_commit() -> None:
    stage = Stage(takes=True)
    stage.commits = 1
    stage.halts = [(3, "a reason")]
    turns(stage).on_log()
    calls = [name for name in stage.done if name in ("commit", "halt", "proposed")]
    assert calls == ["commit", "halt", "proposed"]


def test_what_is_done_is_taken_in_before_a_deadline_is_judged() -> None:
    for late in (False, True):
        stage = Stage(takes=True)
        stage.busy, stage.bits = True, 0
        turns(stage).on_deadlines(late)
        calls = [name for name in stage.done if name in ("reap", "poll", "expire")]
        assert calls == (["reap", "poll", "expire"] if late else ["reap", "expire"])


def test_a_refused_append_does_not_leave_clients_unwatched() -> None:
    stage = Stage(takes=False)
    turns(stage).on_clients()
    assert "watch_clients" not in stage.done
    assert stage.done.index("refuse_sealed") < stage.done.index("again")
