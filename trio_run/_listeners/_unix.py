"""UnixListener: when a socket appears at a path, and when it goes from there.

What happens to the connections is decided in _stream.

At the start it binds beside the path, sets the mode and listens. Only then it moves the socket to
its path: by a rename over a stale one, or one that is to be taken over, by a link where there is
nothing. So the socket is there only when it listens, with its mode from the first moment.

At a stop it removes the path, if what is there is still its own, while it still listens. Then it
accepts the clients that came that way, and closes.

Both a look and what is done upon it happen under a lock of the directory. So of several processes
that find the same stale socket one gets the path, and nobody's path is removed by another. Where a
directory can't be locked, as one that may not be read, or on some network file systems, the later
of two renames wins.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import secrets
import socket as stdlib_socket
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._bind import CannotListen, Endpoint, check_sockets, format_address, listen
from ._lock import DirectoryLock
from ._stream import Drain, StreamListener, for_stream

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable, Sequence

    from ._connection import Connection
    from ._tls import TLSConnection

_LONGEST = 107  # bytes: sun_path on Linux, without its final zero
_RANDOM = 4  # bytes in the name that it has before it is renamed
_TRIES = 1000  # to find one that is free
_NOT_UNIX = "it is not a Unix stream socket"


class UnixEndpoint(Endpoint):
    """A path in the file system, or an abstract address."""

    def __init__(
        self,
        listener: str,
        path: str | bytes | os.PathLike[str] | None,
        sockets: Sequence[stdlib_socket.socket] | None,
        *,
        mode: int,
        take_over: bool = False,
    ) -> None:
        if not hasattr(stdlib_socket, "AF_UNIX"):  # pragma: no cover - there is one on Linux
            raise ValueError(f"{listener}: this platform has no Unix sockets")
        if (path is None) == (sockets is None):
            raise ValueError(f"{listener} takes either a path or sockets")
        if not isinstance(mode, int) or not 0 <= mode <= 0o777:
            raise ValueError(f"mode must be permissions, such as 0o600, not {mode!r}")
        self.path = _check_path(path) if path is not None else ""
        self._is_abstract = self.path.startswith("\0")
        if take_over and (self._is_abstract or not self.path):
            raise ValueError("take_over goes with a path in the file system")
        super().__init__(sockets)
        self._mode = mode
        self._take_over = take_over
        self._own: tuple[Path, os.stat_result] | None = None  # the socket's file: where, and which

    @property
    def addresses(self) -> tuple[Any, ...]:
        """Its path, where it has one: its sockets bear the name that they had before they moved."""
        return (self.path,) if self.path else super().addresses

    async def open(self, backlog: int) -> None:
        check_sockets(self.sockets, stdlib_socket.SOCK_STREAM, _NOT_UNIX, (stdlib_socket.AF_UNIX,))
        for given in self.sockets:
            if not given.getsockname():
                raise CannotListen("a socket", OSError(errno.EINVAL, "it is not bound"))
            listen(given, backlog)
        if not self.sockets:
            bound = stdlib_socket.socket(stdlib_socket.AF_UNIX, stdlib_socket.SOCK_STREAM)
            self.sockets.append(bound)
            bound.setblocking(False)
            try:
                if self._is_abstract:
                    bound.bind(self.path)
                    bound.listen(backlog)
                else:
                    with DirectoryLock(Path(self.path).parent) as lock:
                        await lock.acquire()
                        self._appear(bound, backlog)
            except OSError as exc:
                raise CannotListen(format_address(self.path), exc) from exc

    def _appear(self, bound: stdlib_socket.socket, backlog: int) -> None:
        path = Path(self.path)
        replaces = _check_free(path, take_over=self._take_over)
        beside = _beside(path)
        bound.bind(str(beside))
        file = beside.lstat()
        self._own = beside, file
        beside.chmod(self._mode)
        bound.listen(backlog)
        if replaces:
            beside.rename(path)
        else:
            # Unlike a rename, a link does not replace what has come there meanwhile.
            path.hardlink_to(beside)
            beside.unlink()
        # By the stop the process may have gone to another directory.
        self._own = path.absolute(), file

    def _turn_newcomers_away(self, listening: stdlib_socket.socket) -> None:
        listening.shutdown(stdlib_socket.SHUT_RD)  # connect() fails from now on

    def disappear(self) -> None:
        if self._own is None:
            return
        path, file = self._own
        self._own = None
        with contextlib.suppress(FileNotFoundError), DirectoryLock(path.parent) as lock:
            if os.path.samestat(path.lstat(), file):
                lock.acquire_now(path)
                if os.path.samestat(path.lstat(), file):
                    path.unlink()


class UnixListener(StreamListener):
    """An actor that serves a Unix socket, and drains when interrupted, as :class:`TCPListener`.

    The socket appears at its path only when it listens, with its mode. A stale socket there, left
    by a process that was killed, is replaced: of several processes that find it at once one gets
    the path, the others an error. Anything else is an error and is left alone, a socket that
    somebody listens on included. When it is interrupted the path is removed at once, if it is still
    its own. So a new process can have the path while this one drains.

    With ``take_over=True`` it replaces a socket that somebody listens on, and no client fails for
    that. The other process serves the clients that it has, and gets no more: stop it then.

    A handler may look at its stream's ``credentials``, the (pid, uid, gid) of the client's process.
    They are None where the platform does not know them.

    Args:
      handler: an async function of one stream.
      path: where the socket is to be. One that begins with a zero byte is an abstract address
        (Linux), which has neither a file nor a mode.
      mode: the permissions of the socket.
      take_over: take the path from a process that listens there.
      sockets: listen on these, already bound, instead. They are closed in the end, and their paths
        left alone.
      backlog, ssl_context, proxy_protocol, drain, max_connections, max_age, name, grace: as
        for :class:`TCPListener`.

    Raises:
      TypeError, ValueError: for an argument that can't be right, such as a path longer than the
        kernel allows.
      CannotStart: from :meth:`execute`, when it can't listen there: an OSError that names the path
        too.
    """

    def __init__(
        self,
        handler: Callable[[Connection], Awaitable[object]]
        | Callable[[TLSConnection], Awaitable[object]],
        path: str | bytes | os.PathLike[str] | None = None,
        *,
        mode: int = 0o600,
        take_over: bool = False,
        backlog: int | None = None,
        ssl_context: ssl.SSLContext | None = None,
        proxy_protocol: bool = False,
        drain: Drain = "eof",
        max_connections: int | None = None,
        max_age: float = math.inf,
        sockets: Sequence[stdlib_socket.socket] | None = None,
        name: str | None = None,
        grace: float | None = None,
    ) -> None:
        endpoint = UnixEndpoint("UnixListener", path, sockets, mode=mode, take_over=take_over)
        super().__init__(
            endpoint,
            for_stream(handler),
            name=name or (f"unix:{format_address(endpoint.path)}" if endpoint.path else "unix"),
            backlog=backlog,
            ssl_context=ssl_context,
            proxy_protocol=proxy_protocol,
            drain=drain,
            max_connections=max_connections,
            max_age=max_age,
            grace=grace,
        )


def _check_path(path: str | bytes | os.PathLike[str]) -> str:
    text = os.fsdecode(path)
    length = len(os.fsencode(text))
    abstract = text.startswith("\0")
    if not length:
        raise ValueError("the path of a UnixListener can't be empty")
    if length > _LONGEST:
        raise ValueError(
            f"the path of a Unix socket can have {_LONGEST} bytes, and this one has {length}: "
            f"{text!r}"
        )
    if "\0" in text and not abstract:
        raise ValueError(f"the path of a Unix socket can't have a zero byte in it: {text!r}")
    if abstract and sys.platform != "linux":  # pragma: no cover - there are some on Linux
        raise ValueError("this platform has no abstract Unix sockets")
    return text


def _beside(path: Path) -> Path:
    """A free name in the same directory, made shorter where the kernel takes no longer path."""
    room = _LONGEST - len(os.fsencode(path)) + len(os.fsencode(path.name))
    for _ in range(_TRIES):
        beside = path.with_name(("." + secrets.token_hex(_RANDOM))[-room:])
        if beside != path and not os.path.lexists(beside):
            return beside
    raise OSError(
        errno.ENAMETOOLONG, "there is no room for a name beside it; choose a shorter path"
    )


def _check_free(path: Path, *, take_over: bool) -> bool:
    """See that there is nothing at the path but what is to be replaced. Returns whether that is."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return False
    if not stat.S_ISSOCK(found.st_mode):
        raise OSError(errno.EEXIST, "there is something else, not a socket; move it away")
    if take_over:
        return True
    with stdlib_socket.socket(stdlib_socket.AF_UNIX, stdlib_socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return True  # nobody listens there any more
        except BlockingIOError:
            pass  # somebody does, and has many clients
    raise OSError(errno.EADDRINUSE, "somebody listens there")
