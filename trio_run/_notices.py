"""Notices: what a child says of itself, as systemd's services say it, and whose word is taken.

What is done with it is decided by who has started the child.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import struct
import sys
import tempfile
from pathlib import Path

import trio

_LARGEST = 4096  # bytes of a datagram; what is longer is cut off
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid


class Notices:
    """A datagram socket for one child.

    On Linux its address is abstract, where anybody may send to it. So the kernel says whose each
    datagram is, and only the child and its process group are believed. Elsewhere it is in a
    directory that belongs to this user alone.

    Raises:
      OSError: if there can't be one.
    """

    def __init__(self) -> None:
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
        if sys.platform == "linux" and not _is_of(pid, ancillary):
            return {}
        lines = data.decode(errors="backslashreplace").splitlines()
        return {name: value for name, _, value in (line.partition("=") for line in lines)}

    def close(self) -> None:
        self._socket.close()
        if self._directory is not None:  # pragma: no cover - tested on Linux
            with contextlib.suppress(OSError):
                Path(self.address).unlink()
            with contextlib.suppress(OSError):
                Path(self._directory).rmdir()


def _is_of(group: int, ancillary: list[tuple[int, int, bytes]]) -> bool:
    """Is it from a process of that group?"""
    senders = [
        _CREDENTIALS.unpack(data[: _CREDENTIALS.size])[0]
        for level, kind, data in ancillary
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS)
    ]
    try:
        return {os.getpgid(pid) for pid in senders} == {group}
    except OSError:  # it has ended, or is none that can be seen from here
        return False
