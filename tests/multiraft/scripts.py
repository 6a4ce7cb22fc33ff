"""Scripts about whole processes: lanes, and turns shared by many groups. The form is tests/raft/scripts.py's.

What `run` and the faults print is what lanes say and who leads: `1 -> 2: beat epoch 3 base 2 present 0@1 absent 4`
names the groups at their terms; `2 -> 1: ack epoch 3 doubts 0 term@2` answers. Groups that are not named did not
change.
"""

from typing import Any

from nodedb_node.ids import GroupId, NodeNumber
from nodedb_node.multiraft.messages import Doubt, LaneAck, LaneHeartbeat
from nodedb_node.raft.messages import AppendEntries, Role, RoleChanged
from tests.multiraft.cluster import Cluster, Process
from tests.raft.scripts import Commands, micros


class Script(Commands):
    """Runs the blocks of one script on one cluster."""

    def __init__(self) -> None:
        super().__init__()
        self.cluster = Cluster(3, 1)

    # ---- the cluster ----

    def do_cluster(self, nodes: str, groups: str, **options: str) -> None:
        """cluster NODES groups=N [groups_per_turn=N]: led by whoever wins, at rest. Not traced."""
        self.cluster = Cluster(int(nodes), int(groups), **{name: int(value) for name, value in options.items()})
        self.do_settle()

    def do_lead(self, node: str, *groups: str) -> None:
        """lead NODE GROUP …: it is handed these groups, and the lanes come to rest. Not traced."""
        cluster, to = self.cluster, NodeNumber(int(node))
        for group in map(int, groups):
            while (leader := cluster.leader(group)) != to:
                if leader is not None:
                    cluster.processes[NodeNumber(leader)].multi.transfer(cluster.now_us, GroupId(group), to)
                    self.pump_all()
                cluster.run(200_000)
        self.do_settle()

    def do_settle(self) -> None:
        """settle: until every group is led and equal, and the lanes have said so. Not traced."""
        self.cluster.until(self.cluster.led)
        self.cluster.run(500_000)
        self.quietly(self.look)

    def do_restart(self, node: str) -> None:
        """restart NODE: a new process, to which its peers have lanes at once."""
        self.cluster.restart(int(node))

    def do_isolate(self, node: str) -> None:
        """isolate NODE"""
        self.cluster.isolate(int(node))

    def do_cut(self, source: str, target: str) -> None:
        """cut FROM TO: frames of this direction are lost."""
        self.cluster.cut.add((int(source), int(target)))

    def do_heal(self) -> None:
        """heal"""
        self.cluster.heal()

    def do_disk(self, node: str, what: str) -> None:
        """disk NODE stop|go: its oldest write does not end; it ends."""
        process = self.process(node)
        process.disk_waits = what == "stop"
        process.multi.disk_age(self.cluster.now_us, 10_000_000 if process.disk_waits else 0)
        if not process.disk_waits:
            self.cluster.sync(process)

    def do_campaign(self, node: str, group: str) -> None:
        """campaign NODE GROUP"""
        refused = self.process(node).multi.campaign(self.cluster.now_us, GroupId(int(group)))
        self.say(f"refused: {refused}" if refused else "begun")
        self.pump_all()

    def do_run(self, how_long: str) -> None:
        """run TIME: what lanes say, and who becomes what."""
        self.cluster.run(micros(how_long))
        self.look()

    def do_wait(self, how_long: str) -> None:
        """wait TIME: as run, without what lanes say."""
        self.cluster.run(micros(how_long))
        self.look(lanes=False)

    # ---- turns ----

    def do_propose(self, node: str, *groups: str, entries: str = "1") -> None:
        """propose NODE GROUP … [entries=N]: at once, no turn is taken."""
        rows = [(GroupId(int(group)), 1, b"x") for group in groups for _ in range(int(entries))]
        for row, answer in zip(rows, self.process(node).multi.propose(self.cluster.now_us, rows), strict=True):
            if not isinstance(answer, tuple):
                self.say(f"group {row[0]} refused: {answer}")

    def do_tick(self, node: str, later: str) -> None:
        """tick NODE TIME: time passes for it alone, and it is told so; no turn is taken."""
        self.cluster.now_us += micros(later)
        self.process(node).multi.tick(self.cluster.now_us)

    def do_turn(self, node: str) -> None:
        """turn NODE: one turn, and what it holds by group; durable and sent."""
        process = self.process(node)
        turn = process.multi.take_turn(self.cluster.now_us)
        if turn is None:
            self.say("nothing to do")
            return
        self.say(f"write {numbers(row.group for row in turn.records) or 'nothing'}")
        for peer, frame in sorted(turn.free.items()):
            self.say(f"to {peer}: {', '.join(map(in_frame, frame))}")
        for group, first, last in turn.committed:
            self.say(f"group {group} commits {first}..{last}")
        process.turns.append(turn)
        process.held.append(turn)
        self.cluster.send(process, turn.free)
        self.cluster.sync(process)

    # ---- looking ----

    def do_status(self, *groups: str) -> None:
        """status [GROUP …]: role and term at each node."""
        for group in map(int, groups or map(str, sorted(self.cluster.members))):
            rows = [(p.node, p.multi.raft(GroupId(group))) for p in self.cluster.processes.values()]
            self.say(f"group {group}: " + ", ".join(f"{n} {raft.role.name.lower()} t{raft.term}" for n, raft in rows))

    def do_deadline(self, node: str) -> None:
        """deadline NODE: groups of it that wait for a time of their own."""
        multi = self.process(node).multi
        waiting = [group for group in multi.groups() if multi.raft(group).next_deadline_us() is not None]
        self.say(f"groups with a deadline: {numbers(waiting) or 'none'}")

    # ---- helpers ----

    def process(self, node: str) -> Process:
        return self.cluster.processes[NodeNumber(int(node))]

    def pump_all(self) -> None:
        for process in self.cluster.processes.values():
            self.cluster.pump(process)
        for _ in range(4):
            self.cluster.deliver()

    def look(self, lanes: bool = True) -> None:
        """What was said and what happened since the last look."""
        for source, target, frame in self.cluster.sent:
            for message in frame:
                if lanes and isinstance(message, LaneHeartbeat | LaneAck):
                    lost = " (lost)" if (source, target) in self.cluster.cut else ""
                    self.say(f"{source} -> {target}: {in_frame(message)}{lost}")
        self.cluster.sent.clear()
        for process in self.cluster.processes.values():
            for group, event in [row for turn in process.turns for row in turn.events]:
                if isinstance(event, RoleChanged) and event.role is Role.LEADER:
                    self.say(f"node {process.node} leads group {group} in term {event.term}")
            process.turns.clear()


def in_frame(message: Any) -> str:
    if isinstance(message, LaneHeartbeat):
        present = " present " + " ".join(f"{group}@{term}" for group, term in message.present)
        absent = " absent " + numbers(message.absent)
        row = f"beat epoch {message.epoch} base {message.base}"
        return row + present * bool(message.present) + absent * bool(message.absent)
    if isinstance(message, LaneAck):
        rows = " ".join(f"{group} {Doubt(doubt).name.lower()}@{term}" for group, doubt, term in message.doubts)
        return f"ack epoch {message.epoch}" + " say all" * message.full + f" doubts {rows}" * bool(rows)
    if isinstance(message, AppendEntries):
        count = message.last_index - message.prev_index
        return f"group {message.group} " + (f"{count} entries" if count else f"commit {message.commit}")
    return f"group {message.group} {type(message).__name__}"


def numbers(groups: Any) -> str:
    return " ".join(map(str, groups))
