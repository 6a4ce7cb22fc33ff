"""The mutation check: classic Raft bugs put back one at a time; the simulator has to find each within a minute.

A mutation is a change of text in one module of the product, made while a process of its own loads it; the files stay as
they are. Invariant: every old text occurs exactly once, so a mutation that no longer fits the code is an error, never a
silent pass. Which of them other implementations really had is in their words.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import CodeType, ModuleType
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 60
STEPS = 12_000
VARIED = 0.7  # of the runs, as in the swarm: with a part of the faults


class Mutation(NamedTuple):
    """edits: (module, old text, new text). specs: where it is looked for first."""

    why: str
    specs: tuple[str, ...]
    edits: tuple[tuple[str, str, str], ...]


RAFT = "nodedb_node.raft"
QUARANTINE = f"{RAFT}.quarantine"
ELECTION, FOLLOWING, REPLICATION = f"{RAFT}.election", f"{RAFT}.following", f"{RAFT}.replication"
COMMIT, READS, SNAPSHOT, STATE = f"{RAFT}.commit", f"{RAFT}.reads", f"{RAFT}.snapshot", f"{RAFT}.state"
ROLES, QUORUM, CORE = f"{RAFT}.roles", f"{RAFT}.quorum", f"{RAFT}.core"
MULTI = "nodedb_node.multiraft.core"

MUTATIONS: dict[str, Mutation] = {
    "stale-vote": Mutation(
        "a vote granted in an earlier term elects in this one",
        ("stale", "network"),
        (
            (ELECTION, "if state.role != asked or message.request != state.request:", "if state.role != asked:"),
            (ELECTION, "if message.granted and not message.pre and message.term != state.term:", "if False:"),
        ),
    ),
    "lost-vote": Mutation(
        "a replica without its hard state votes again as soon as it has what its leader has committed",
        ("forget",),
        ((QUARANTINE, 'proposals.append_own(state, NOOP, 0, b"")', "0; release(state)"),),
    ),
    "stale-ack": Mutation(
        "an acknowledgement of an earlier term moves the commit index",
        ("stale", "network"),
        (
            (REPLICATION, "    if message.term != state.term:\n", "    if message.term > state.term:\n"),
            (REPLICATION, "not peer.request_floor < message.request <= peer.request or", ""),
        ),
    ),
    "ack-whole-log": Mutation(
        "an append is acknowledged up to the follower's last entry, not to its own",
        ("snapshots", "mixed"),
        (
            (
                FOLLOWING,
                "_send_response(state, message, True, agreed)",
                "_send_response(state, message, True, state.log.last_index)",
            ),
        ),
    ),
    "commit-whole-log": Mutation(
        "a follower commits up to its last entry, not to what the append vouched for",
        ("network", "mixed"),
        (
            (
                FOLLOWING,
                "index = message.commit if message.commit < agreed else agreed",
                "index = min(message.commit, state.log.last_index)",
            ),
        ),
    ),
    "deliver-twice": Mutation(
        "entries are delivered twice when commit advances twice",
        ("calm",),
        ((CORE, "committed = (self.delivered + 1, target)", "committed = (max(1, self.delivered), target)"),),
    ),
    "snapshot-without-state": Mutation(
        "a snapshot moves the log, and the state machine is given nothing",
        ("crashes", "network"),
        (
            (
                SNAPSHOT,
                "state.emit(SnapshotOffered(message))",
                "_install(state, message); send_response(state, message, True)",
            ),
        ),
    ),
    "append-below-snapshot": Mutation(
        "a delayed append from before a snapshot is taken on top of it",
        ("network", "crashes"),
        ((FOLLOWING, "skip = max(0, log.mark_index - message.prev_index)", "skip = 0 * log.mark_index"),),
    ),
    "delivery-behind-snapshot": Mutation(
        "delivery stays behind an installed snapshot",
        ("network", "crashes"),
        ((SNAPSHOT, "state.delivered = state.applied = index", "state.applied = index"),),
    ),
    "hint-at-self": Mutation(
        "a deposed leader names itself as the leader",
        ("network",),
        (
            (STATE, "NotLeader(NOBODY if self.leader == self.node else self.leader)", "NotLeader(self.leader)"),
            (
                ROLES,
                "state.role, state.leader = FOLLOWER, leader",
                "state.role, state.leader = FOLLOWER, leader or state.leader",
            ),
        ),
    ),
    "vote-before-disk": Mutation(
        "a vote is answered before it is durable",
        ("crashes",),
        ((ELECTION, "state.send_after(\n        VoteResponse(", "state.send_free(\n        VoteResponse("),),
    ),
    "vote-lost-at-restart": Mutation(
        "a restart forgets the vote of its term",
        ("crashes", "leases"),
        ((STATE, "own = restored.term == self.term", "own = False"),),
    ),
    "vote-lost-at-step-down": Mutation(
        "stepping down within a term forgets the vote",
        ("network", "mixed"),
        ((ROLES, "    if term > state.term:\n", "    if term >= state.term:\n"),),
    ),
    "vote-for-older-log": Mutation(
        "a candidate's log need not be as new as the voter's",
        ("network", "crashes"),
        (
            (
                ELECTION,
                "if state.quarantine or not state.log.is_behind(message.last_index, message.last_term):",
                "if state.quarantine:",
            ),
        ),
    ),
    "vote-twice": Mutation(
        "a second candidate of a term gets the vote too",
        ("network", "mixed"),
        (
            (
                ELECTION,
                "return state.vote == message.sender and state.vote_replica == message.sender_replica",
                "return True",
            ),
        ),
    ),
    "half-is-a-quorum": Mutation(
        "half of the voters commit",
        ("membership", "mixed"),
        ((QUORUM, "return values[(len(values) - 1) >> 1]", "return values[len(values) >> 1]"),),
    ),
    "commit-of-old-term": Mutation(
        "a leader commits entries of earlier terms by counting (figure 8 of the paper)",
        ("crashes", "network"),
        (
            (COMMIT, "if index > state.commit and index >= state.noop_index:", "if index > state.commit:"),
            (COMMIT, 'assert state.log.term(index) == state.term, "commits by counting are of the own term"', ""),
            (CORE, "assert self.own_committed == (self.commit >= self.noop_index)", ""),
        ),
    ),
    "count-before-disk": Mutation(
        "a leader counts its own entries before they are durable",
        ("crashes", "disks"),
        (
            (
                COMMIT,
                "index = reached(_matches(state.voter_peers, state.voter_self, state.durable))",
                "index = reached(_matches(state.voter_peers, state.voter_self, state.log.last_index))",
            ),
        ),
    ),
    "ack-after-vote": Mutation(
        "a heartbeat that is read between a vote and its turn is acknowledged as if the vote had not been given",
        ("comeback", "leases"),
        ((MULTI, "if raft.term != self._terms[group] or raft.quarantine:", "if raft.quarantine:"),),
    ),
    "ack-before-disk": Mutation(
        "a follower acknowledges before its entries are durable",
        ("crashes",),
        ((FOLLOWING, "state.after.append(\n        AppendResponse(", "state.free.append(\n        AppendResponse("),),
    ),
    "conflict-kept": Mutation(
        "a conflicting suffix is not truncated",
        ("network", "mixed"),
        ((FOLLOWING, "_truncate(state, index + skip - 1, message)\n            break", "pass"),),
    ),
    "suffix-kept": Mutation(
        "a snapshot keeps the log behind it whatever its term there",
        ("snapshots", "network"),
        ((SNAPSHOT, "keep = log.term(index) == term", "keep = log.mark_index < index <= log.last_index"),),
    ),
    "two-changes-at-once": Mutation(
        "a second change of membership begins while one is open",
        ("membership",),
        ((f"{RAFT}.proposals", "if index > state.commit or configuration.outgoing:", "if configuration.outgoing:"),),
    ),
    "new-majority-only": Mutation(
        "a joint configuration commits by the new voters alone",
        ("membership",),
        ((COMMIT, "if state.outgoing_peers or state.outgoing_self:", "if False:"),),
    ),
    "read-without-quorum": Mutation(
        "a read is answered without asking whether one still leads",
        ("network", "leases"),
        (
            (READS, "while reads and reads[0][2] <= contact_us:", "while reads and contact_us >= 0:"),
            (
                READS,
                "return state.voters_since_us <= contact_us and now_us < contact_us + state.config.lease_us",
                "return False",
            ),
        ),
    ),
    "no-check-quorum": Mutation(
        "a leader that nobody answers does not notice",
        ("network", "stale"),
        (("nodedb_node.multiraft.core", "self._rafts[group].lane_lost(now_us, peer)", "pass"),),
    ),
    "lease-without-contact": Mutation(
        "a leader reads under a lease that no majority gave",
        ("leases",),
        (
            (
                READS,
                "return state.voters_since_us <= contact_us and now_us < contact_us + state.config.lease_us",
                "return bool(state.config.lease_us) and contact_us >= 0",
            ),
        ),
    ),
    "lease-from-arrival": Mutation(
        "a lease and a read count from when an answer arrived, not from when it was asked for",
        ("leases", "stale"),
        (
            (
                f"{RAFT}.progress",
                "            if sent_us > self.contact_us:\n                self.contact_us = sent_us\n",
                "            self.contact_us = now_us\n",
            ),
        ),
    ),
    "promises-not-kept": Mutation(
        "a follower votes for another while the promise holds that it gave its leader",
        ("leases",),
        (
            (
                ELECTION,
                "return max(state.fence_us, state.promise_us, state.contacts.promised_us())",
                "return state.fence_us",
            ),
            (ELECTION, "return heard_us > 0 and heard_us + state.config.election_min_us > now_us", "return False"),
        ),
    ),
    "lease-too-long": Mutation(
        "a lease lasts longer than the promise it rests on",
        ("leases",),
        ((READS, "now_us < contact_us + state.config.lease_us", "now_us < contact_us + 4 * state.config.lease_us"),),
    ),
    "no-boot-fence": Mutation(
        "a restarted voter forgets that it promised not to vote",
        ("leases",),
        ((STATE, "fenced = restored.promised and self.config.lease_us", "fenced = 0"),),
    ),
    "lease-after-transfer": Mutation(
        "a leader believes its lease after it has sent TimeoutNow",
        ("leases",),
        ((f"{RAFT}.transfer", "state.lease_dropped = True", "pass"),),
    ),
}


class Loader(importlib.abc.Loader):
    """Loads one module with its text changed."""

    def __init__(self, path: str, edits: Sequence[tuple[str, str]]) -> None:
        self.path, self.edits = path, edits

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        exec(self.code(), module.__dict__)

    def code(self) -> CodeType:
        text = Path(self.path).read_text()
        for old, new in self.edits:
            assert text.count(old) == 1, f"{self.path} has {text.count(old)} times {old!r}"
            text = text.replace(old, new)
        return compile(text, self.path, "exec")


class Finder(importlib.abc.MetaPathFinder):
    """Finds the modules that a mutation changes."""

    def __init__(self, mutation: Mutation) -> None:
        self.mutation = mutation

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        edits = [(old, new) for module, old, new in self.mutation.edits if module == name]
        if not edits:
            return None
        place = str(ROOT / f"{name.replace('.', '/')}.py")
        return importlib.util.spec_from_file_location(name, place, loader=Loader(place, edits))


def hunt(name: str, seconds: float, seed: int) -> str:
    """In a process of its own: load the product with this bug and look for it; what was found, or nothing."""
    mutation = MUTATIONS[name]
    sys.meta_path.insert(0, Finder(mutation))
    from tests.sim import spec as specs
    from tests.sim.run import run
    from tests.sim.swarm import varied

    rng = random.Random(seed)
    others = [other for other in specs.names() if other not in (*mutation.specs, "calm")]
    end = time.monotonic() + seconds
    at = 0
    while time.monotonic() < end:
        chosen = mutation.specs[at % len(mutation.specs)] if at % 4 != 3 else rng.choice(others)
        spec, one = specs.load(chosen), rng.randrange(1 << 32)
        result = run(varied(spec, one) if rng.random() < VARIED else spec, one, STEPS)
        at += 1
        if result.failure and "quiet injector" not in result.failure:
            return f"{chosen} seed {one}: {result.failure}"
    return ""


def check_mutations(count: int | None, seed: int | None) -> bool:
    """All, or `count` of them at random; prints what became of each. True: every one was found."""
    rng = random.Random(seed if seed is not None else random.SystemRandom().randrange(1 << 32))
    names = sorted(MUTATIONS) if count is None else rng.sample(sorted(MUTATIONS), count)
    missed = []
    for name in names:
        began = time.monotonic()
        command = [sys.executable, "-m", "tests.sim.mutations", name, str(SECONDS), str(rng.randrange(1 << 32))]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        took = time.monotonic() - began
        lines = done.stdout.strip().splitlines()
        what = lines[-1][:160] if lines and done.returncode == 0 else done.stderr.strip()[-300:]
        if done.returncode != 0:
            missed.append(name)
        verdict = "MISSED" if done.returncode else "caught"
        print(f"{verdict} {name} ({took:.0f} s): {MUTATIONS[name].why}\n    {what}", flush=True)
    print(f"{len(names) - len(missed)} of {len(names)} caught" + (f"; missed: {' '.join(missed)}" if missed else ""))
    return not missed


if __name__ == "__main__":
    found = hunt(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]))
    print(found)
    sys.exit(0 if found else 3)
