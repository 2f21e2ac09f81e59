"""Ports for programs that are told theirs, and take it only some time after it was found free."""

import contextlib
import itertools
import random
import socket

# Below all that the kernel gives to who wants any: nobody else gets one meanwhile.
_ports = itertools.count(random.randrange(10_000, 30_000))


def free_port() -> int:
    """A port that nothing has, for TCP and UDP: each time another one."""
    while True:
        port = next(_ports)
        with (
            contextlib.suppress(OSError),
            socket.socket() as tcp,
            socket.socket(type=socket.SOCK_DGRAM) as udp,
        ):
            tcp.bind(("127.0.0.1", port))
            udp.bind(("127.0.0.1", port))
            return port
