"""A sender and a receiver with a hostile network and an honest or broken disk between them, in virtual time."""

import hashlib
import random

from nodedb_node.multiraft.snapshot import receiver, sender
from nodedb_node.multiraft.snapshot.limits import SnapshotLimits
from nodedb_node.multiraft.snapshot.messages import Chunk, Manifest, Offer, Reason

LIMITS = SnapshotLimits(
    chunk_bytes=1000,
    chunk_bytes_max=4000,
    window_chunks=4,
    rate_bytes_per_s=1_000_000,
    stall_us=50_000,
    offers_max=200,
    idle_us=100_000_000,
)


def manifest_of(data: bytes, group: int = 1, index: int = 100, chunk_bytes: int = 1000) -> Manifest:
    digest = hashlib.blake2b(data, digest_size=32).digest()
    return Manifest(group, index, 3, b"config", len(data), chunk_bytes, digest)


class Link:
    """Node 1 sends to node 2. Faults are chances per message."""

    def __init__(self, data: bytes, seed: int = 0, limits: SnapshotLimits = LIMITS, **chances: float) -> None:
        self.data, self.manifest, self.limits = data, manifest_of(data), limits
        self.rng, self.chances, self.now_us, self.term = random.Random(seed), chances, 0, 5
        self.sender = sender.SnapshotSender(limits, 1000, 0)
        self.receiver = receiver.SnapshotReceiver(limits)
        self.network: list[tuple[int, object]] = []  # destination, message
        self.disk: dict[int, bytes] | None = None
        self.installed: list[Manifest] = []
        self.finished: list[sender.Finished] = []
        self.sent_chunks: list[int] = []
        self.applied_index = 0

    def chance(self, name: str) -> bool:
        return self.rng.random() < self.chances.get(name, 0.0)

    def start(self) -> None:
        assert self.sender.start(self.now_us, 2, 0, self.term, self.manifest)

    def run(self, steps: int = 5000) -> None:
        """Until the transfer has ended or the steps are used up."""
        for _ in range(steps):
            self.step()
            if self.finished:
                return
            if self.chance("crash"):
                self.crash_receiver()

    def step(self) -> None:
        """One message, or the passing of time when there is none."""
        self.drain()
        if self.network:
            self.deliver()
        elif not self.finished:
            deadline = self.sender.next_deadline_us()
            assert deadline is not None, "nothing under way and nothing to wait for"
            self.now_us = max(self.now_us + 1, deadline)
            self.sender.tick(self.now_us)

    def drain(self) -> None:
        for output in self.sender.take_outputs():
            match output:
                case sender.Send(_, message):
                    self.post(2, message)
                case sender.Read(transfer, manifest, number):
                    begin = number * manifest.chunk_bytes
                    data = self.data[begin : begin + manifest.chunk_length(number)]
                    self.sent_chunks.append(number)
                    self.sender.chunk_read(self.now_us, transfer, number, data)
                case sender.Finished():
                    self.finished.append(output)
        for action in self.receiver.take_outputs():
            self.carry_out(action)

    def carry_out(self, action: receiver.Output) -> None:
        match action:
            case receiver.Send(_, message):
                self.post(1, message)
            case receiver.Begin():
                self.disk = {}
            case receiver.Write(manifest, number, data):
                assert self.disk is not None
                self.disk[number] = data
                self.receiver.written(self.now_us, manifest, number)
            case receiver.Install(manifest):
                assert self.disk is not None
                self.install(manifest, b"".join(self.disk[number] for number in range(manifest.chunks)))
            case receiver.Discard():
                self.disk = None

    def install(self, manifest: Manifest, data: bytes) -> None:
        if hashlib.blake2b(data, digest_size=32).digest() != manifest.digest:
            self.receiver.install_failed(self.now_us, manifest, Reason.CORRUPT)
            return
        self.installed.append(manifest)
        self.applied_index = manifest.index
        self.receiver.installed(manifest)

    def post(self, to: int, message: object) -> None:
        if self.chance("lose"):
            return
        if isinstance(message, Chunk) and self.chance("damage") and message.data:
            message = Chunk(*[getattr(message, name) for name in Chunk.__struct_fields__[:-1]], b"?" + message.data[1:])
        self.network.append((to, message))
        if self.chance("repeat"):
            self.network.append((to, message))

    def deliver(self) -> None:
        at = self.rng.randrange(len(self.network)) if self.chance("reorder") else 0
        to, message = self.network.pop(at)
        self.now_us += 10
        if to == 2:
            assert isinstance(message, Offer | Chunk)
            self.receiver.on_message(self.now_us, 1, message, self.term, self.applied_index)
        else:
            assert not isinstance(message, Offer | Chunk)
            self.sender.on_message(self.now_us, 2, message)

    def crash_receiver(self) -> None:
        """What is on its disk stays; a prefix of whole chunks is found again."""
        self.drain()
        self.receiver = receiver.SnapshotReceiver(self.limits)
        if self.disk is not None:
            prefix = 0
            while prefix in self.disk:
                prefix += 1
            self.disk = {number: self.disk[number] for number in range(prefix)}
            self.receiver.restore(self.now_us, self.manifest, prefix)
