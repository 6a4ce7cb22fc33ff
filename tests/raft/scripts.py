"""Scripts about one group: commands, `----`, and what happened, as text.

A script is blocks separated by empty lines; a block is comment lines (#), command lines, `----`, and the output that is
expected. Commands are methods of Script whose names begin with `do_`; each docstring gives its form. The output of
most is the messages sent and the events that came of them; `log` draws the replicas' logs under each other, so that a
divergence is seen:

    1 leader    t2  1noop  1a     |      2b
    2 follower  t2  1noop  1a     |
    3 follower  t1  1noop  |      1x

Each cell is term and content, `|` the commit index, `~` an entry that is not durable yet.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nodedb_node.ids import NodeNumber
from nodedb_node.raft.messages import ConfigChange, SnapshotOffered
from tests.raft.group import MS, Group, Replica, short, text, words

UNITS = {"ms": MS, "s": 1000 * MS}


class Commands:
    """Runs blocks; commands are methods."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def run(self, commands: list[str]) -> list[str]:
        """Output of one block."""
        self.lines = []
        for command in commands:
            name, *words_ = command.split()
            positional = [word for word in words_ if "=" not in word]
            named = dict(word.split("=", 1) for word in words_ if "=" in word)
            handler: Callable[..., None] | None = getattr(self, f"do_{name.replace('-', '_')}", None)
            assert handler is not None, f"no command {name}"
            handler(*positional, **named)
        return self.lines or ["ok"]

    def say(self, line: str) -> None:
        self.lines.append(line.rstrip())

    def quietly(self, action: Callable[[], Any]) -> None:
        length = len(self.lines)
        action()
        del self.lines[length:]


class Script(Commands):
    """Runs the blocks of one script on one group."""

    def __init__(self) -> None:
        super().__init__()
        self.group = Group(3)

    # ---- the group ----

    def do_group(self, voters: str, **settings: str) -> None:
        """group VOTERS [setting=value …]"""
        self.group = Group(int(voters), trace=self.say, **{name: int(value) for name, value in settings.items()})

    def do_add(self, node: str, replica: str) -> None:
        """add NODE replica=ID: an empty replica, as a message to it would create."""
        self.group.add(int(node), int(replica))

    def do_crash(self, node: str) -> None:
        """crash NODE: what is not durable is gone."""
        self.group.crash(int(node))

    def do_restart(self, node: str, lose: str = "0", forget: str = "", **changes: str) -> None:
        """restart NODE [lose=ENTRIES] [quarantined=1] [forget=1]: without its hard state"""
        disk = self.group.replicas[int(node)].disk
        if int(lose):
            del disk.entries[-int(lose) :]
            disk.applied = min(disk.applied, disk.last)
        if forget:
            disk.term = disk.vote = 0
        self.group.restart(int(node), **{name: bool(int(value)) for name, value in changes.items()})

    def do_disk(self, node: str, what: str) -> None:
        """disk NODE stop|go: a disk that does not answer; go: everything becomes durable."""
        replica = self.group.replicas[int(node)]
        replica.disk_stopped = what == "stop"
        if not replica.disk_stopped:
            self.group.persist(int(node))

    # ---- wishes ----

    def do_campaign(self, node: str) -> None:
        """campaign NODE"""
        self.result(self.group[int(node)].campaign(self.group.now_us))

    def do_elect(self, node: str) -> None:
        """elect NODE: after a quiet while it campaigns, and everything is delivered. Not traced."""
        self.quietly(lambda: self.group.elect(int(node)))

    def do_propose(self, node: str, *data: str, size: str = "10") -> None:
        """propose NODE DATA … [size=BYTES]"""
        for item in data:
            self.result(self.group.propose(int(node), item, int(size)))

    def do_read(self, node: str, context: str) -> None:
        """read NODE CONTEXT"""
        self.result(self.group[int(node)].read(self.group.now_us, context))

    def do_transfer(self, node: str, to: str) -> None:
        """transfer NODE TO"""
        self.result(self.group[int(node)].transfer(self.group.now_us, NodeNumber(int(to))))

    def do_change(self, node: str, **named: str) -> None:
        """change NODE add_learners=4,5 promote=… demote=… remove=… add_observers=…"""
        change = ConfigChange(**{name: tuple(map(int, value.split(","))) for name, value in named.items()})
        self.result(self.group[int(node)].propose_config(self.group.now_us, change))

    def do_quarantine(self, node: str, why: str) -> None:
        """quarantine NODE WHY"""
        self.group[int(node)].quarantine_now(self.group.now_us, why)

    def do_compact(self, node: str, index: str) -> None:
        """compact NODE INDEX: a checkpoint covers it."""
        replica = self.group.replicas[int(node)]
        replica.disk.compact(int(index), replica.raft.configuration_at(int(index)))
        replica.disk.applied = int(index)
        replica.raft.compacted(int(index))

    def do_offer(self, node: str, to: str) -> None:
        """offer NODE TO: a snapshot of everything applied."""
        raft = self.group[int(node)]
        index = raft.applied
        self.result(raft.offer_snapshot(self.group.now_us, NodeNumber(int(to)), index, raft.log.term(index)))

    def do_snapshot_failed(self, node: str, to: str) -> None:
        """snapshot-failed NODE TO"""
        self.group[int(node)].snapshot_failed(self.group.now_us, NodeNumber(int(to)))

    def do_install(self, node: str) -> None:
        """install NODE: the newest snapshot offered to it."""
        replica = self.group.replicas[int(node)]
        replica.raft.snapshot_installed(self.group.now_us, self.offered(replica).offer)

    def do_refuse(self, node: str) -> None:
        """refuse NODE: the newest snapshot offered to it."""
        replica = self.group.replicas[int(node)]
        replica.raft.snapshot_refused(self.group.now_us, self.offered(replica).offer)

    # ---- the network and time ----

    def do_flush(self) -> None:
        """flush: everybody's outputs are taken and made durable; nothing is delivered."""
        self.group.flush()

    def do_settle(self) -> None:
        """settle: messages are delivered until there are none."""
        self.group.settle()

    def do_quiet_settle(self) -> None:
        """quiet-settle: not traced."""
        self.quietly(self.group.settle)

    def do_deliver(self, *pairs: str) -> None:
        """deliver A>B …: messages on these ways, in order; then their outputs."""
        for pair in pairs:
            sender, receiver = map(int, pair.split(">"))
            held = [m for m in self.group.network if (m.sender, m.receiver) == (sender, receiver)]
            self.group.network = [m for m in self.group.network if m not in held]
            for message in held:
                self.group.deliver(message)
            self.group.flush()

    def do_drop(self, *pairs: str) -> None:
        """drop A>B …: messages on these ways are lost."""
        for pair in pairs:
            sender, receiver = map(int, pair.split(">"))
            lost = [m for m in self.group.network if (m.sender, m.receiver) == (sender, receiver)]
            self.group.network = [m for m in self.group.network if m not in lost]
            for message in lost:
                self.say(f"lost {sender} -> {receiver}: {words(message)}")

    def do_cut(self, *pairs: str) -> None:
        """cut A>B …: nothing passes there until heal."""
        self.group.cut |= {(int(a), int(b)) for a, b in (pair.split(">") for pair in pairs)}

    def do_isolate(self, node: str) -> None:
        """isolate NODE: both ways, from everybody."""
        for other in self.group.replicas:
            self.group.cut |= {(int(node), other), (other, int(node))}

    def do_heal(self) -> None:
        """heal"""
        self.group.cut.clear()

    def do_beat(self) -> None:
        """beat: the lanes' heartbeats pass."""
        self.group.beat()

    def do_wait(self, how_long: str) -> None:
        """wait TIME: deadlines fire, nothing is delivered."""
        self.group.advance(micros(how_long))

    def do_live(self, how_long: str) -> None:
        """live TIME: lanes beat, messages arrive, deadlines fire."""
        self.group.run(micros(how_long))

    def do_quiet_live(self, how_long: str) -> None:
        """quiet-live TIME: not traced."""
        self.quietly(lambda: self.group.run(micros(how_long)))

    def do_silence(self) -> None:
        """silence: all promises and contacts are past."""
        for replica in self.group.replicas.values():
            replica.lanes.promised, replica.lanes.heard, replica.lanes.acked = 0, {}, {}
        self.group.now_us += 3_000_000

    # ---- looking ----

    def do_log(self) -> None:
        """log: the replicas' logs under each other."""
        rows = [(node, replica, cells(replica)) for node, replica in sorted(self.group.replicas.items())]
        width = max((len(cell) for _, _, row in rows for cell in row), default=0) + 1
        for node, replica, row in rows:
            raft = replica.raft
            role = raft.role.name.lower() if replica.alive else "down"
            self.say(f"{node} {role:13} t{raft.term}  " + "".join(cell.ljust(width) for cell in row))

    def do_status(self) -> None:
        """status: role, term, vote, leader, commit of each."""
        for node, replica in sorted(self.group.replicas.items()):
            raft = replica.raft
            marks = "".join(
                f" {name}" for name in ("quarantine", "removed", "halted") if getattr(raft, name) and replica.alive
            )
            role = raft.role.name.lower() if replica.alive else "down"
            lease = " lease" if raft.lease_valid(self.group.now_us) else ""
            who = f"vote {raft.vote} leader {raft.leader}"
            self.say(f"{node} {role:13} t{raft.term} {who} commit {raft.commit}{lease}{marks}")

    def do_progress(self, node: str) -> None:
        """progress NODE: what the leader knows of each member, drawn along the log (= match, > sent, . missing)."""
        raft = self.group[int(node)]
        for peer in raft.send_list:
            bar = "".join(
                "=" if index <= peer.match else ">" if index < peer.next else "."
                for index in range(1, raft.log.last_index + 1)
            )
            flags = " quarantine" * bool(peer.quarantine) + " caught-up" * peer.caught_up
            self.say(f"{peer.node} {peer.flow.name.lower():9} [{bar}] inflight {len(peer.inflight)}{flags}")

    def do_config(self) -> None:
        """config: the configuration in force at each."""
        for node, replica in sorted(self.group.replicas.items()):
            index, configuration = replica.raft.configs[-1]
            state = "committed" if index <= replica.raft.commit else "not committed"
            self.say(f"{node} entry {index} {state}: {short(configuration)}")

    def do_reads(self, node: str) -> None:
        """reads NODE: answers since the last look."""
        replica = self.group.replicas[int(node)]
        for answer in replica.reads:
            self.say(words(answer))
        replica.reads = []

    def do_drops(self, node: str) -> None:
        """drops NODE: how many messages it did not believe."""
        self.say(f"{self.group[int(node)].drops} dropped")

    # ---- helpers ----

    def result(self, value: Any) -> None:
        if isinstance(value, tuple):
            self.say(f"entry {value[0]} of term {value[1]}")
        elif value is not None:
            self.say(f"refused: {words(value)}")

    def offered(self, replica: Replica) -> SnapshotOffered:
        return next(event for event in reversed(replica.events) if isinstance(event, SnapshotOffered))


def cells(replica: Replica) -> list[str]:
    raft = replica.raft
    row = [] if raft.commit else ["|"]
    for index in range(1, raft.log.last_index + 1):
        if index <= raft.log.mark_index:
            row.append("#")
        else:
            entry = replica.payload(index)
            row.append(f"{entry.term}{text(entry)}{'~' if index > raft.durable else ''}")
        if index == raft.commit:
            row.append("|")
    return row


def micros(how_long: str) -> int:
    for unit, factor in UNITS.items():
        if how_long.endswith(unit) and how_long.removesuffix(unit).isdigit():
            return int(how_long.removesuffix(unit)) * factor
    raise AssertionError(f"a time with ms or s: {how_long}")


def blocks(script: str) -> list[tuple[list[str], list[str], list[str]]]:
    """(comments, commands, expected output) of each block."""
    found = []
    for block in script.strip("\n").split("\n\n"):
        head, _, expected = block.partition("\n----")
        lines = head.split("\n")
        comments = [line for line in lines if line.startswith("#")]
        commands = [line for line in lines if line and not line.startswith("#")]
        found.append((comments, commands, expected.strip("\n").split("\n")))
    return found


def rewritten(script: str, machine: Commands) -> str:
    """The script with the outputs of now."""
    parts = []
    for comments, commands, _ in blocks(script):
        output = machine.run(commands) if commands else []
        parts.append("\n".join([*comments, *commands, *(["----", *output] if commands else [])]))
    return "\n\n".join(parts) + "\n"


def scripts(directory: Path) -> list[Path]:
    return sorted((directory / "testdata").glob("*.txt"))


def check(path: Path, machine: Commands) -> None:
    """Run a script: what it prints is what stands in it."""
    for _, commands, expected in blocks(path.read_text()):
        if commands:
            assert machine.run(commands) == expected, f"{path.name}: {commands}"


def main(directory: Path, machine: Callable[[], Commands], usage: str | None) -> None:
    """--rewrite: put the outputs of now into the directory's scripts."""
    assert sys.argv[1:] == ["--rewrite"], usage
    for path in scripts(directory):
        path.write_text(rewritten(path.read_text(), machine()))
