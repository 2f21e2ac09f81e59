"""Notices: what a child says of itself, as systemd's services say it, and whose word is taken.

What is done with it is decided by who has started the child.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import socket
import struct
import sys
import tempfile
from pathlib import Path

import trio

logger = logging.getLogger("trio_run")

_HEARD = ("READY", "STATUS", "STOPPING", "WATCHDOG")
_LARGEST = 4096  # bytes of a datagram; what is longer is cut off
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid


class Notices:
    """A datagram socket for one child.

    On Linux its address is abstract, where anybody may send to it. So the kernel says whose each
    datagram is, and only the child and its process group are believed: what is to be killed with
    it. The first time that another one's is passed over it is logged. Elsewhere the socket is in a
    directory that belongs to this user alone.

    Raises:
      OSError: if there can't be one.
    """

    def __init__(self, name: str) -> None:
        self._name = name  # of the child
        self._has_warned = False
        self._directory: str | None = None
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            self._socket.setblocking(False)
            if sys.platform == "linux":
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
                self.address = f"@trio_run/{secrets.token_hex(16)}"
                self._socket.bind("\0" + self.address[1:])
            else:  # pragma: no cover - tested on Linux
                self._directory = tempfile.mkdtemp(prefix="trio_run")
                self.address = str(Path(self._directory, "notify"))
                self._socket.bind(self.address)
        except BaseException:
            self.close()
            raise

    async def wait(self) -> None:
        """Wait until there is one."""
        await trio.lowlevel.wait_readable(self._socket)

    def take(self, pid: int) -> dict[str, str] | None:
        """The next one; {} if it is not of that child; None if there is none.

        The child is not to be reaped yet.
        """
        # There is room for credentials alone: descriptors that come along are closed by the kernel.
        room = socket.CMSG_SPACE(_CREDENTIALS.size)
        try:
            data, ancillary, _, _ = self._socket.recvmsg(_LARGEST, room)
        except OSError:
            return None
        lines = data.decode(errors="backslashreplace").splitlines()
        said = {name: value for name, _, value in (line.partition("=") for line in lines)}
        if sys.platform == "linux":
            sender = _sender_of(ancillary)
            if not _is_in_group(sender, pid):
                self._warn(sender, said)
                return {}
        return said

    def _warn(self, sender: int, said: dict[str, str]) -> None:
        heard = [name for name in _HEARD if name in said]
        if heard and not self._has_warned:
            self._has_warned = True
            logger.warning(
                "%s: %s= from process %d is passed over: that has ended, or is not in its group",
                self._name,
                "=, ".join(heard),
                sender,
            )

    def close(self) -> None:
        self._socket.close()
        if self._directory is not None:  # pragma: no cover - tested on Linux
            with contextlib.suppress(OSError):
                Path(self.address).unlink()
            with contextlib.suppress(OSError):
                Path(self._directory).rmdir()


def _sender_of(ancillary: list[tuple[int, int, bytes]]) -> int:
    """The pid of who has sent it; 0 where that can't be seen from here."""
    senders = (
        int(_CREDENTIALS.unpack(data[: _CREDENTIALS.size])[0])
        for level, kind, data in ancillary
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS)
    )
    return next(senders, 0)


def _is_in_group(pid: int, group: int) -> bool:
    try:
        return os.getpgid(pid) == group
    except OSError:  # it has ended, or is none that can be seen from here
        return False
