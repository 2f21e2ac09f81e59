"""DirectoryLock: which of several processes may change what is in a directory.

It is a lock that the kernel takes back when its process ends, so that none is left over.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import time
from typing import TYPE_CHECKING, Self

import trio

if sys.platform != "win32":
    import fcntl

if TYPE_CHECKING:
    from pathlib import Path

_LOCKED_AT_MOST = 5.0  # seconds, at the start
_LOOK_AGAIN = 0.005  # seconds
_LOOKS_AT_A_STOP = 20  # nothing else goes on meanwhile
_IS_LOCKED = errno.EBUSY, "another process has locked its directory"


class DirectoryLock:
    """A lock of a directory: nobody else puts a socket there, or takes one away.

    It does nothing where the directory can't be locked.
    """

    def __init__(self, directory: Path) -> None:
        self._descriptor: int | None = None
        with contextlib.suppress(OSError):  # it may be one to write, and not to read
            self._descriptor = os.open(directory, os.O_RDONLY)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)

    async def acquire(self) -> None:
        """Wait until it is free.

        Raises:
          OSError: if it is not free for 5 seconds.
        """
        with trio.move_on_after(_LOCKED_AT_MOST):
            while not self._try():  # noqa: ASYNC110 - nobody says when it is free
                await trio.sleep(_LOOK_AGAIN)
            return
        raise OSError(*_IS_LOCKED)

    def acquire_now(self, path: Path) -> None:
        """The same, without a checkpoint.

        Raises:
          OSError: about the path, if it is not free for a tenth of a second.
        """
        for _ in range(_LOOKS_AT_A_STOP):
            if self._try():
                return
            time.sleep(_LOOK_AGAIN)
        raise OSError(*_IS_LOCKED, str(path))

    def _try(self) -> bool:
        if self._descriptor is None:
            return True
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            pass  # a file system that has no locks
        return True
