"""sd_notify: tells systemd READY, STOPPING and WATCHDOG when it started the node, else nothing. World file."""

import os
import socket


class Notifier:
    """Sends to $NOTIFY_SOCKET. A lost datagram is not an error: systemd asks again by its own time-outs."""

    def __init__(self) -> None:
        address = os.environ.pop("NOTIFY_SOCKET", "")  # not for the children: only this process speaks for the node
        self._address = "\0" + address[1:] if address.startswith("@") else address
        for_us = os.environ.pop("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        usec = os.environ.pop("WATCHDOG_USEC", "0")
        self.watchdog_us = int(usec) if for_us and usec.isdecimal() else 0  # 0 = no watchdog

    def tell(self, state: str) -> None:
        if self._address:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                try:
                    sender.sendto(state.encode(), self._address)
                except OSError:
                    return
