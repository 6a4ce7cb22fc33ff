"""A UDP relay in the test's own loop, between one dialler and one server: loss, reordering, duplication, delay, MTU."""

import asyncio
from random import Random

from nodedb_node.native.udp import Udp, bound
from nodedb_node.transport.interface import Address


class Relay:
    """Listens at `address` and passes datagrams on to `target`, and answers back to whoever sent last."""

    def __init__(self, loop: asyncio.AbstractEventLoop, target: Address, seed: int) -> None:
        self.loss = 0.0
        self.duplicate = 0.0
        self.reorder = 0.0
        self.delay_s = 0.0
        self.mtu = 65_507
        self.blocked = False
        self.passed = self.dropped = 0
        self._random = Random(seed)
        self._loop = loop
        self._target = (target.host, target.port)
        self._front = Udp(bound("127.0.0.1", 0), 4 << 20, 0)
        self._backs: dict[tuple[str, int], Udp] = {}
        self.address = Address(*self._front.address)
        loop.add_reader(self._front.fileno(), self._from_dialler)

    def close(self) -> None:
        for udp in (self._front, *self._backs.values()):
            self._loop.remove_reader(udp.fileno())
            udp.close()

    def _from_dialler(self) -> None:
        for data, addr in self._front.receive():
            back = self._backs.get(addr)
            if back is None:
                back = self._backs[addr] = Udp(bound("127.0.0.1", 0), 4 << 20, 0)
                self._loop.add_reader(back.fileno(), self._from_server, back, addr)
            self._pass(back, self._target, data)

    def _from_server(self, back: Udp, addr: tuple[str, int]) -> None:
        for data, _ in back.receive():
            self._pass(self._front, addr, data)

    def _pass(self, out: Udp, to: tuple[str, int], data: bytes) -> None:
        roll = self._random.random
        if self.blocked or len(data) > self.mtu or roll() < self.loss:
            self.dropped += 1
            return
        self.passed += 1
        for _ in range(1 + (roll() < self.duplicate)):
            late = self.delay_s * (0.5 + roll()) + (0.02 * roll() if roll() < self.reorder else 0.0)
            if late:
                self._loop.call_later(late, self._send, out, to, data)
            else:
                self._send(out, to, data)

    def _send(self, out: Udp, to: tuple[str, int], data: bytes) -> None:
        if out._handle is not None:
            out.send(to, data, len(data))
