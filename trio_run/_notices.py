"""Notices: what a child says of itself, as systemd's services say it, and whose word is taken.

What is done with it is decided by who has started the child.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import os
import re
import secrets
import shutil
import socket
import struct
import sys
from pathlib import Path
from tempfile import mkdtemp

import trio

logger = logging.getLogger("trio_run")

_HEARD = ("READY", "STATUS", "STOPPING", "WATCHDOG")
_LARGEST = 4096  # bytes of a datagram; what is longer is cut off
_IN_MEMORY = "/dev/shm"  # there, and writable, where a container's own file system is not
_PREFIX = "trio_run-"  # of the directories there
_SECRET = re.compile("[0-9a-f]{32}")  # how a socket in one is named, once somebody is behind it
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid


class Notices:
    """A datagram socket for one child, at an address that nobody else knows.

    Whoever knows it could fill its queue, so that the child is not heard. So it is in a directory
    that others can't read, by another name than that which /proc/net/unix has. A child that has
    dropped its rights reaches it by the address that it was given.

    On Linux the kernel says, too, whose each datagram is, and only the child and its process group
    are believed: what is to be killed with it. The first time that another one's is passed over it
    is logged.

    Raises:
      OSError: if there can't be one.
    """

    def __init__(self, name: str) -> None:
        self._name = name  # of the child
        self._has_warned = False
        where = None
        if os.access(_IN_MEMORY, os.W_OK | os.X_OK):
            where = _IN_MEMORY
            _remove_what_is_left(where)  # not elsewhere: that may be another machine's, too
        with contextlib.ExitStack() as opened:
            # A TemporaryDirectory would be removed by a fork of this process that exits.
            directory = mkdtemp(prefix=_PREFIX, dir=where)
            opened.callback(shutil.rmtree, directory, ignore_errors=True)
            self._socket = opened.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
            self._socket.setblocking(False)
            if sys.platform == "linux":  # pragma: no branch - tested on Linux
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            secret = secrets.token_hex(16)
            bound = Path(directory, "bound".ljust(len(secret), "_"))  # both fit, or neither
            self._socket.bind(str(bound))
            self.address = str(bound.rename(bound.with_name(secret)))
            Path(self.address).chmod(0o666)
            Path(directory).chmod(0o711)  # from here on others get as far as the socket
            self.close = opened.pop_all().close

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
        if sys.platform == "linux":  # pragma: no branch - tested on Linux
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


@functools.cache  # once in each process is enough
def _remove_what_is_left(where: str) -> None:
    """Remove there what processes of this user have left behind that were killed.

    Only a directory whose socket nobody has open: neither its process nor a fork of that.
    """
    for directory in Path(where).glob(f"{_PREFIX}*"):
        # What is left out is another's, or is just coming or going.
        with contextlib.suppress(OSError, ValueError):
            if directory.is_symlink() or directory.lstat().st_uid != os.geteuid():
                continue
            [address] = directory.iterdir()
            if not (_SECRET.fullmatch(address.name) and address.is_socket()):
                continue
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as asking:
                if asking.connect_ex(str(address)) == errno.ECONNREFUSED:
                    address.unlink()
                    directory.rmdir()


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
