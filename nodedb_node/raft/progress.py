"""What a leader knows of one member: how far its log agrees, and what is on the way to it.

    PROBE      where the logs agree is not known: one append at a time, answered or lost, then the next
    REPLICATE  known: appends are sent ahead of their answers, bounded in number and bytes
    SNAPSHOT   it needs entries that are compacted away: nothing is sent until a snapshot is installed or given up

Invariant: match < next; inflight holds (request, bytes, sent_us) of consecutive requests, the newest last. A progress
lives as long as one leadership; only a new process of the member makes it forget what it knew.
"""

from collections import deque
from enum import IntEnum

from nodedb_node.ids import NodeNumber
from nodedb_node.raft.messages import InstallSnapshot, LogIndex, Micros, ReplicaId
from nodedb_node.raft.quorum import EVERYTHING


class Flow(IntEnum):
    PROBE = 0
    REPLICATE = 1
    SNAPSHOT = 2


PROBE, REPLICATE, SNAPSHOT = Flow  # by these names where it is hot: looking up an enum's member costs a call


class Progress:
    """One member as its leader sees it."""

    __slots__ = (
        "acked",
        "caught_up",
        "commit_sent",
        "contact_us",
        "flow",
        "inflight",
        "inflight_bytes",
        "learner",
        "leaving_us",
        "match",
        "moved_us",
        "next",
        "node",
        "offer",
        "paused_us",
        "promised_us",
        "quarantine",
        "reachable",
        "release_index",
        "release_of",
        "replica",
        "request",
        "request_floor",
        "retry_us",
        "round_end",
        "round_us",
        "rounds",
    )

    def __init__(self, node: NodeNumber, replica: ReplicaId, next_index: LogIndex, now_us: Micros) -> None:
        assert next_index > 0
        self.node, self.replica = node, replica
        self.flow = PROBE
        self.match: LogIndex = 0
        self.next: LogIndex = next_index
        self.acked: LogIndex = 0  # highest match ever of this leadership, over restarts of the member
        self.commit_sent: LogIndex = 0  # the member's commit once the newest append has arrived; 0: not known
        self.request = 0  # newest sent
        self.request_floor = 0  # answers up to here are of an older process of the member
        self.inflight: deque[tuple[int, int, Micros]] = deque()
        self.inflight_bytes = 0
        self.moved_us = now_us  # last answer, or the send into an empty window
        self.retry_us: Micros = 0  # how long to wait for an answer; set by replication, doubles
        self.contact_us: Micros = 0  # send time of the newest append that was answered
        self.promised_us: Micros = 0  # of the newest whose answer promised as much as a lease rests on
        self.quarantine = 0  # number of the member's quarantine: its acknowledgements count for nothing
        self.release_of = 0
        self.release_index: LogIndex = 0
        self.offer: InstallSnapshot | None = None  # waits for its result
        self.paused_us: Micros = EVERYTHING  # a snapshot was not taken: ask for another then
        self.reachable = True  # its lane is up, as far as was said
        self.leaving_us: Micros = EVERYTHING  # not a member any more: sent the news of it until then
        self.learner = False  # its rounds are measured
        self.caught_up = False
        self.rounds = 0
        self.round_end: LogIndex = 0
        self.round_us: Micros = 0

    def become_probe(self, now_us: Micros) -> None:
        """What was sent may be lost: begin behind what is known. A probe that is lost is sent again: going back to
        match, which is 0 until the first answer, would end in a snapshot wherever the log is compacted."""
        if self.flow is not PROBE:
            self.next = self.match + 1
        self.flow = PROBE
        self.offer, self.paused_us = None, EVERYTHING
        self.forget_inflight(now_us)

    def become_replicate(self) -> None:
        assert self.next > self.match
        self.flow = REPLICATE
        self.offer, self.paused_us = None, EVERYTHING

    def become_snapshot(self, now_us: Micros) -> None:
        assert self.flow is not SNAPSHOT
        self.flow = SNAPSHOT
        self.offer, self.paused_us = None, EVERYTHING
        self.forget_inflight(now_us)

    def restart(self, now_us: Micros) -> None:
        """A new process of the member, or one that may have lost what it had: answers to what it got before are not
        believed, nor what it told us."""
        expected = max(self.match, self.acked) + 1
        self.match = 0
        self.request_floor = self.request
        self.contact_us = self.promised_us = 0
        self.caught_up = False
        self.become_probe(now_us)
        self.next = expected

    def forget_inflight(self, now_us: Micros) -> None:
        """What was on the way may be lost, the news of a commit too."""
        self.commit_sent = 0
        self.inflight.clear()
        self.inflight_bytes = 0
        self.moved_us = now_us

    def sent(self, size_bytes: int, now_us: Micros) -> None:
        """Request number `request` has just left."""
        if not self.inflight:
            self.moved_us = now_us
        self.inflight.append((self.request, size_bytes, now_us))
        self.inflight_bytes += size_bytes

    def answered(self, request: int, now_us: Micros) -> bool:
        """The answer to a request arrived, and with it those of all earlier ones. False: it was not in flight."""
        inflight = self.inflight
        if not inflight or inflight[0][0] > request:
            return False
        while inflight and inflight[0][0] <= request:
            _, size_bytes, sent_us = inflight.popleft()
            self.inflight_bytes -= size_bytes
            if sent_us > self.contact_us:
                self.contact_us = sent_us
        self.moved_us = now_us
        return True

    def check_invariants(self) -> None:
        assert 0 <= self.match < self.next
        assert self.match <= self.acked or self.acked == 0 or self.quarantine
        assert self.request_floor <= self.request
        if self.inflight:
            requests = [request for request, _, _ in self.inflight]
            assert requests == list(range(self.request - len(requests) + 1, self.request + 1))
        assert self.inflight_bytes == sum([size for _, size, _ in self.inflight])
        if self.flow is PROBE:
            assert len(self.inflight) <= 1
        elif self.flow is SNAPSHOT:
            assert not self.inflight
