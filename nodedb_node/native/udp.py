"""csrc/udp.h: many datagrams per call on one UDP socket. World file: it sends and receives them.

Invariant: an open C object is closed exactly once; received bytes are copied out before the next call. Addresses are
(host, port) with a numeric host, and one object per address is kept, so that equal ones are the same.
"""

from __future__ import annotations

import os
import select
import socket
from typing import Any, NamedTuple

from nodedb_node._native import ffi, lib

Address = tuple[str, int]

GSO: int = lib.ND_UDP_GSO
GRO: int = lib.ND_UDP_GRO
ERRQUEUE: int = lib.ND_UDP_ERRQUEUE
ALL = GSO | GRO | ERRQUEUE
ADDRESSES_MAX = 65_536


class UdpStats(NamedTuple):
    """Units and meaning: csrc/udp.h."""

    calls_in: int
    datagrams_in: int
    bytes_in: int
    calls_out: int
    datagrams_out: int
    bytes_out: int
    dropped_full: int
    dropped_size: int
    dropped_error: int
    refused: int
    features: int
    receive_buffer: int
    send_buffer: int


def bound(host: str, port: int) -> socket.socket:
    """A socket for an endpoint; OSError when the port is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        made.bind((host, port))
    except OSError:
        made.close()
        raise
    return made


class Udp:
    """Owner of a socket and its nd_udp."""

    def __init__(self, sock: socket.socket, buffer_bytes: int, features: int = ALL) -> None:
        out = ffi.new("nd_udp **")
        _check(lib.nd_udp_open(sock.fileno(), features, buffer_bytes, out))
        self._handle: Any = out[0]
        self._socket = sock
        # libuv stops watching a descriptor that reports an error, and an ICMP message is one: it sees this one instead.
        self._watch = select.epoll()
        self._watch.register(sock.fileno(), select.EPOLLIN)
        self._datagrams = ffi.new("nd_udp_datagram[]", lib.ND_UDP_RECV_MAX)
        self._from = ffi.new("nd_udp_addr[]", lib.ND_UDP_RECV_MAX)
        self._text = ffi.new("char[64]")
        self._addresses: dict[Address, Any] = {}
        self._names: dict[bytes, Address] = {}

    def fileno(self) -> int:
        """Readable when there is something to receive, or to hear of."""
        return self._watch.fileno()

    @property
    def address(self) -> Address:
        name = self._socket.getsockname()
        return name[0], name[1]

    def receive(self) -> list[tuple[bytes, Address]]:
        """What is there, at most about a thousand datagrams."""
        count = _check(lib.nd_udp_recv(self._handle, self._datagrams, self._from))
        found: list[tuple[bytes, Address]] = []
        last, address = -1, ("", 0)
        for i in range(count):
            one = self._datagrams[i]
            if one.sender != last:
                last = one.sender
                address = self._name(self._from[last])
            found.append((ffi.buffer(one.data, one.len)[:], address))
        return found

    def send(self, to: Address, data: bytes, segment: int) -> int:
        """Datagrams of `segment` bytes; how many were dropped because the way out has a smaller MTU."""
        return _check(lib.nd_udp_send(self._handle, self._address(to), data, len(data), segment))

    def unreachable(self) -> list[Address]:
        """Addresses where nobody listens, as the network said; anybody near the path could say so."""
        found = []
        while lib.nd_udp_unreachable(self._handle, self._from) == 1:
            found.append(self._name(self._from[0]))
        return found

    def route_mtu(self, to: Address) -> int:
        """Bytes of a packet on the way out to this address; 0 when it cannot be told."""
        return max(0, int(lib.nd_udp_route_mtu(self._address(to))))

    def stats(self) -> UdpStats:
        out = ffi.new("nd_udp_stats *")
        lib.nd_udp_stats_get(self._handle, out)
        return UdpStats(*(getattr(out, field) for field in UdpStats._fields))

    def close(self) -> None:
        if self._handle is not None:
            lib.nd_udp_close(self._handle)
            self._handle = None
            self._watch.close()
            self._socket.close()

    def _address(self, to: Address) -> Any:
        found = self._addresses.get(to)
        if found is None:
            if len(self._addresses) >= ADDRESSES_MAX:
                self._addresses.clear()
            found = ffi.new("nd_udp_addr *")
            _check(lib.nd_udp_addr_of(to[0].encode(), to[1], found))
            self._addresses[to] = found
        return found

    def _name(self, addr: Any) -> Address:
        raw = ffi.buffer(addr.raw)[:]
        found = self._names.get(raw)
        if found is None:
            if len(self._names) >= ADDRESSES_MAX:
                self._names.clear()
            port = lib.nd_udp_addr_text(ffi.addressof(addr), self._text)
            found = self._names[raw] = (ffi.string(self._text).decode(), port)
        return found


def _check(code: int) -> int:
    if code < 0:
        raise OSError(-code, os.strerror(-code))
    return code
