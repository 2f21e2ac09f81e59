"""For the tests of programs: a group in the background, a client of a listener, a process.

This module decides how a test waits for these and what it is raised. What they do themselves is
decided elsewhere, and nothing here is used by the rest of the library.
"""

from __future__ import annotations

import math
import os
import re
import ssl
import subprocess
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Literal, overload

import trio

from ._actor import State
from ._group import Group
from ._listeners._udp import UDPListener

if TYPE_CHECKING:
    import signal
    from collections.abc import AsyncIterator, Iterator, Mapping, Sequence

    from ._journal import Event
    from ._listeners._http._listener import HTTPListener
    from ._listeners._tcp import TCPListener
    from ._listeners._unix import UnixListener
    from ._listeners._websocket import WebSocketListener
    from ._report import Report

    Stream = trio.SocketStream | trio.SSLStream[trio.SocketStream]
    StreamListener = TCPListener | UnixListener | WebSocketListener | HTTPListener
    Address = tuple[str, int] | str | os.PathLike[str]

__all__ = [
    "Program",
    "connect",
    "ending",
    "open_program",
    "read_exactly",
    "read_to_end",
    "read_until",
    "running",
    "wait_stopped",
]

_HAS_SIGNALS = os.name == "posix"
_EVERY_INTERFACE = {"0.0.0.0": "127.0.0.1", "::": "::1"}
_REPORT = re.compile(r"^[^\n]* stopped in \d+\.\d\d s: .*\Z", re.MULTILINE | re.DOTALL)


@asynccontextmanager
async def _open_nursery() -> AsyncIterator[trio.Nursery]:
    """A nursery that raises a single exception as it is, and not as a group of one."""
    try:
        async with trio.open_nursery(strict_exception_groups=True) as nursery:
            yield nursery
        return
    except BaseExceptionGroup as group:
        if len(group.exceptions) > 1:
            raise
        [error] = group.exceptions
    context = error.__context__
    try:
        raise error
    finally:
        error.__context__ = context  # not what was being handled here


# A group in the background.


@asynccontextmanager
async def running(
    *actors: object,
    name: str = "group",
    grace: float = 30.0,
    lame_duck: float = 0.0,
    start_within: float = math.inf,
    wait_ready: bool = True,
) -> AsyncIterator[Group]:
    """Run a group while a block runs: ``async with running(worker, grace=5) as group: ...``

    The block begins when every actor is ready. At its end the group is stopped by its rules, and
    waited for; one that stops already is only waited for. One that stops without a failure before
    leaves the block alone. After the block ``group.report`` says what became of it.

    An actor's failure cancels the block, as soon as the group has stopped. A block that raises or
    is cancelled cancels the group, which then stops hard, as the child of a nursery would.

    Args:
      actors: what :meth:`Group.add <trio_run.Group.add>` takes. Or a single
        :class:`~trio_run.Group`, which is run itself.
      name, grace, lame_duck, start_within: those of the group that is made of the actors, the times
        in seconds.
      wait_ready: begin the block when every actor is ready; else at once, for a test of the start.

    Raises:
      GroupFailed: if an actor failed, before the block, in it or at its end.
      ExceptionGroup: if the block raised too: with both.
      TypeError, ValueError, RuntimeError: as the group and its ``add()`` and ``run()`` say.
    """
    settings = {
        "name": name,
        "grace": grace,
        "lame_duck": lame_duck,
        "start_within": start_within,
    }
    group = _group_of(actors, settings)
    async with _open_nursery() as nursery:
        if wait_ready:
            await nursery.start(group.run)
        else:
            nursery.start_soon(group.run)
        yield group
        if group.state in (State.NEW, State.STARTING, State.RUNNING):
            # Another call would end a lame duck.
            group.stop("the block around it has ended")


def _group_of(actors: tuple[object, ...], settings: dict[str, Any]) -> Group:
    if len(actors) == 1 and isinstance(actors[0], Group):
        defaults = {"name": "group", "grace": 30.0, "lame_duck": 0.0, "start_within": math.inf}
        if settings != defaults:
            raise TypeError(
                "running(group) takes the name and the times from the group: give them there"
            )
        return actors[0]
    group = Group(**settings)
    for actor in actors:
        group.add(actor)
    return group


async def wait_stopped(group: Group) -> Report:
    """Wait until the group has stopped, by itself or because it is stopped. Returns its report."""
    if group.state is not State.STOPPED:
        stopped = trio.Event()

        def look(event: Event) -> None:
            if event.kind == "over":
                stopped.set()

        group.on_event(look)
        await stopped.wait()
    return group.report


# A client of a listener.


@overload
async def connect(listener: UDPListener) -> trio.socket.SocketType: ...


@overload
async def connect(
    listener: StreamListener | Address, *, ssl_context: None = None
) -> trio.SocketStream: ...


@overload
async def connect(
    listener: StreamListener | Address, *, ssl_context: ssl.SSLContext, server_hostname: str = ...
) -> trio.SSLStream[trio.SocketStream]: ...


async def connect(
    listener: UDPListener | StreamListener | Address,
    *,
    ssl_context: ssl.SSLContext | None = None,
    server_hostname: str = "localhost",
) -> trio.socket.SocketType | Stream:
    """Connect to a listener, wherever it listens: ``stream = await connect(listener)``.

    Close what it returns: ``async with stream:``, and ``with socket:`` for UDP.

    Args:
      listener: one that listens, such as in :func:`running`, where its port may be 0. Of several
        addresses the first is taken. Or an address: (host, port), or the path of a Unix socket.
      ssl_context: speak TLS, and shake hands at once. One for a client, such as of
        ``ssl.create_default_context(cafile=...)``.
      server_hostname: the name that the server's certificate must have.

    Returns:
      Trio's stream; for a :class:`~trio_run.UDPListener` a Trio socket that is connected to it.

    Raises:
      RuntimeError: if it does not listen; if the platform has no Unix sockets.
      OSError: if the connection is refused.
      trio.BrokenResourceError: if the handshake of TLS fails.
    """
    if isinstance(listener, UDPListener):
        return await _connect_datagrams(_address_of(listener))
    address = _address_of(listener)
    if isinstance(address, tuple):
        stream = await trio.open_tcp_stream(*address[:2])
    else:
        stream = await trio.open_unix_socket(address)
    if ssl_context is None:
        return stream
    try:
        over_tls = trio.SSLStream(stream, ssl_context, server_hostname=server_hostname)
        await over_tls.do_handshake()
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return over_tls


def _address_of(listener: UDPListener | StreamListener | Address) -> Any:
    if isinstance(listener, (tuple, str, os.PathLike)):
        return listener
    if not listener.addresses:
        raise RuntimeError(f"{listener.name} does not listen: connect to it inside running()")
    address = listener.addresses[0]
    if isinstance(address, tuple):
        host, *rest = address
        return (_EVERY_INTERFACE.get(host, host), *rest)
    return address


async def _connect_datagrams(address: Any) -> trio.socket.SocketType:
    family = trio.socket.AF_INET6 if ":" in address[0] else trio.socket.AF_INET
    client = trio.socket.socket(family, trio.socket.SOCK_DGRAM)
    try:
        await client.connect(address)
    except BaseException:
        client.close()
        raise
    return client


async def read_exactly(stream: trio.abc.ReceiveStream, size: int) -> bytes:
    """Read so many bytes.

    Raises:
      EOFError: if the stream ends before; with what has come.
      trio.BrokenResourceError: if it ends in a reset.
    """
    data = bytearray()
    while len(data) < size:
        data += await _more(stream, size - len(data), data)
    return bytes(data)


async def read_until(stream: trio.abc.ReceiveStream, mark: bytes) -> bytes:
    """Read up to these bytes, and including them: ``await read_until(stream, b"\\n")``.

    What comes after them is left in the stream. So it reads byte by byte: that is for tests, which
    are not to be fast.

    Raises:
      EOFError: if the stream ends before; with what has come.
      trio.BrokenResourceError: if it ends in a reset.
    """
    data = bytearray()
    while not data.endswith(mark):
        data += await _more(stream, 1, data)
    return bytes(data)


async def _more(stream: trio.abc.ReceiveStream, size: int, data: bytearray) -> bytes:
    more = await stream.receive_some(size)
    if not more:
        raise EOFError(f"the stream ended after {bytes(data)!r}")
    return bytes(more)


async def read_to_end(stream: trio.abc.ReceiveStream) -> bytes:
    """Read all that comes, until a clean end of the stream.

    Raises:
      trio.BrokenResourceError: if it ends in a reset.
    """
    return b"".join([bytes(data) async for data in stream])


async def ending(
    stream: trio.abc.ReceiveStream,
) -> tuple[bytes, Literal["eof", "reset", "truncated"]]:
    """Read all that comes. Returns it, and how the stream ended.

    "eof" is a clean end. With TLS it needs the other side's close_notify: without it the end is
    "truncated". (OpenSSL 3 takes that for a clean end where the context's option
    ``ssl.OP_IGNORE_UNEXPECTED_EOF`` is set, as some Pythons do by default.) "reset" is how a
    listener ends a connection whose reply was cut.
    """
    data = bytearray()
    try:
        async for more in stream:
            data += more
    except trio.BrokenResourceError as exc:
        return bytes(data), "truncated" if isinstance(exc.__cause__, ssl.SSLError) else "reset"
    return bytes(data), "eof"


# A program.


class Program:
    """A running program: see :func:`open_program`.

    What it writes is read all the time, so that it is never held up by that.
    """

    def __init__(self, process: trio.Process, timeout: float) -> None:
        self._process = process
        self._timeout = timeout
        self._written = bytearray()
        self._grew = trio.Event()
        self._ended = False

    @property
    def pid(self) -> int:
        """The number of its process."""
        return self._process.pid

    @property
    def output(self) -> str:
        """All that it has written so far, on stdout and stderr together."""
        return self._written.decode(errors="replace")

    @property
    def report(self) -> str:
        """The timeline that :func:`trio_run.run` logs at the end, and what comes after it.

        Raises:
          EOFError: if the program has ended, or has not yet, without having written one.
        """
        found = _REPORT.search(self.output)
        if found is None:
            raise EOFError(f"there is no report in:\n{self.output}")
        return found[0]

    def signal(self, signum: signal.Signals) -> None:
        """Send it a signal. One that has ended gets none.

        Raises:
          NotImplementedError: on Windows, where a process can't be sent one.
        """
        if not _HAS_SIGNALS:
            raise NotImplementedError(
                f"this platform can't send {signum.name} to a process: have the program stop by "
                "itself, or test its group with running()"
            )
        self._process.send_signal(signum)

    async def line_with(self, text: str) -> str:
        """Wait for a line that contains the text. Returns the first one, without its end.

        Raises:
          EOFError: if its output ended without one.
          trio.TooSlowError: if there is none within the timeout.
        """
        with self._bounded(f"no line with {text!r}"):
            while True:
                for line in self.output.splitlines(keepends=True):
                    if text in line and (line.endswith("\n") or self._ended):
                        return line.rstrip("\n")
                if self._ended:
                    raise EOFError(f"there is no line with {text!r} in:\n{self.output}")
                await self._grew.wait()

    async def exit_code(self) -> int:
        """Wait until it has ended and all its output is read. Returns its exit code.

        That is negative if a signal ended it, as in the ``subprocess`` of Python.

        Raises:
          trio.TooSlowError: if that takes longer than the timeout.
        """
        with self._bounded("no end of the program and its output"):
            code = await self._process.wait()
            while not self._ended:
                await self._grew.wait()
            return code

    @contextmanager
    def _bounded(self, what: str) -> Iterator[None]:
        try:
            with trio.fail_after(self._timeout):
                yield
        except trio.TooSlowError:
            raise trio.TooSlowError(
                f"{what} within {self._timeout:g} s; it has written:\n{self.output}"
            ) from None

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async with self._process.stdout as output:
            async for data in output:
                self._written += data
                self._wake()
        self._ended = True
        self._wake()

    def _wake(self) -> None:
        self._grew.set()
        self._grew = trio.Event()


@asynccontextmanager
async def open_program(
    command: Sequence[str | os.PathLike[str]],
    *,
    env: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    timeout: float = 60.0,
) -> AsyncIterator[Program]:
    """Start a program: ``async with open_program([sys.executable, "-m", "shop"]) as shop: ...``

    It has nothing on stdin. At the end of the block it is killed if it still runs, whatever happens
    in the block; what it has started itself is its own affair. Python programs write at once: for
    them ``PYTHONUNBUFFERED`` is set.

    Args:
      command: the program and its arguments.
      env: its environment, None for that of this process.
      cwd: its working directory, None for that of this process.
      timeout: how many seconds each wait for it may take. A bound for a test that would hang, not a
        measure.

    Raises:
      OSError: if it can't be started.
    """
    environment = {**(os.environ if env is None else env), "PYTHONUNBUFFERED": "1"}
    process = await trio.lowlevel.open_process(
        list(command),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        cwd=cwd,
    )
    program = Program(process, timeout)
    async with _open_nursery() as nursery:
        try:
            nursery.start_soon(program._read)
            yield program
        finally:
            if process.returncode is None:
                process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
            nursery.cancel_scope.cancel()
