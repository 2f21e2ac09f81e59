"""Reload: for development, a server that begins anew when a file changes.

Decides when that is, and who answers meanwhile. The sockets are its parent's. The old server is
stopped and the new one started at the same time, so that whoever comes then waits for the new code,
and nobody is refused. Where that does not run, its error is on stderr, and clients are answered so
until the next change.
"""

from __future__ import annotations

import fnmatch
import logging
import os
import threading
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from ._actor import State
from ._arguments import REFUSED, Refused
from ._errors import CannotStart, ProcessFailed
from ._group import current_group
from ._listeners._http._listener import HTTPListener
from ._process import Process

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import AsyncIterator, Callable, Sequence

    from ._actor import Cause
    from ._group import Group
    from ._member import Member

logger = logging.getLogger("trio_run")

_OLD = 2.0  # seconds for an old server to end: streams without an end would keep one for each save
_SORRY = b"The app does not run. Its error is where the server was started; mend it, and try again."


class Reload:
    """An actor: a server process on these sockets, begun anew at each change.

    Args:
      command, sockets, grace: as for :class:`Process`.
      directories: where files are watched, with all below: those of Python, and those whose names
        match one of ``patterns``.
      ssl_context: with which clients are answered while the app does not run.

    Raises:
      Refused: if watchfiles is not installed, or a directory is not there.
    """

    name = "reload"

    def __init__(
        self,
        command: Sequence[str],
        sockets: dict[str, list[socket.socket]],
        *,
        directories: Sequence[str],
        patterns: Sequence[str],
        ssl_context: ssl.SSLContext | None,
        grace: float,
    ) -> None:
        try:
            import watchfiles
        except ImportError:
            raise Refused("--reload needs watchfiles: pip install 'trio-run[reload]'") from None
        for directory in directories:
            if not Path(directory).is_dir():
                raise Refused(f"--reload-dir {directory!r} is no directory")
        self._watchfiles = watchfiles
        self._filter = watchfiles.DefaultFilter()
        self._command = command
        self._sockets = sockets
        self._directories = directories
        self._patterns = ["*.py", *patterns]
        self._ssl_context = ssl_context
        self._grace = grace
        self._is_due = False  # is it to begin anew?
        self._happened = trio.Event()  # a change; a server is ready, or has ended
        self._task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED

    def again(self) -> None:
        """Begin anew, though no file has changed."""
        self._is_due = True
        self._happened.set()

    async def execute(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Have a server run until interrupted. Started when the first one is ready, or has failed.

        Raises:
          CannotStart: if the first one says, by its exit code, that it can't begin.
        """
        group = current_group()
        assert group is not None
        self._task_status = task_status
        number, is_refused = 0, False
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch)
            while _runs(group) and not is_refused:
                number += 1
                is_refused = await self._serve(group, number)
            nursery.cancel_scope.cancel("the group stops")
        if is_refused:
            raise CannotStart("the server can't begin: see above")

    async def _serve(self, group: Group, number: int) -> bool:
        """Have one server run until there is to be another. Returns whether there is to be none."""
        self._is_due = False
        # Bytecode is told apart by the second and the size: what is saved twice in one is stale.
        env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
        process = Process(self._command, env=env, sockets=self._sockets, notify=True, name="server")
        server = _Server(process, lambda: self._happened.set())
        member = group.add(server, name=f"server {number}", grace=self._grace, on_return="ignore")
        is_first = number == 1
        while not (self._is_due or server.has_ended):
            await self._wait()
            if is_first and server.is_ready:
                self._task_status.started()
                is_first = False
        if not server.has_ended:
            server.hurry()
            member.stop()
        elif is_first and server.failure is not None and server.failure.exit_code == REFUSED:
            return True
        elif _runs(group):
            why = server.failure or "'server' has ended"
            logger.error("%s: %s; waiting for a change", self.name, why)
            async with self._apologizing(group):
                if is_first:
                    self._task_status.started()
                while not self._is_due:
                    await self._wait()
        return False

    async def _wait(self) -> None:
        """Wait until something has happened."""
        await self._happened.wait()
        self._happened = trio.Event()

    @asynccontextmanager
    async def _apologizing(self, group: Group) -> AsyncIterator[None]:
        """Answer clients, while the app does not."""
        copies = [each.dup() for several in self._sockets.values() for each in several]
        listener = HTTPListener(_sorry, sockets=copies, ssl_context=self._ssl_context)
        member: Member = group.add(listener, name="sorry", on_return="ignore", on_error="ignore")
        yield
        member.stop()

    async def _watch(self) -> None:
        over = threading.Event()

        async def end() -> None:
            try:
                await trio.sleep_forever()
            finally:
                over.set()  # its thread looks at this, and can't be cancelled

        async with trio.open_nursery() as nursery:
            nursery.start_soon(end)
            changes = self._watchfiles.awatch(
                *self._directories,
                watch_filter=self._is_ours,
                stop_event=over,  # type: ignore[arg-type] # it is only looked at
            )
            async with aclosing(changes):
                async for changed in changes:
                    path = min(path for _, path in changed)
                    logger.info("%s: %s has changed: beginning anew", self.name, path)
                    self.again()

    def _is_ours(self, change: Any, path: str) -> bool:
        name = Path(path).name
        return self._filter(change, path) and any(
            fnmatch.fnmatch(name, pattern) for pattern in self._patterns
        )


class _Server:
    """A process whose failure is looked at by who began it."""

    def __init__(self, process: Process, on_change: Callable[[], None]) -> None:
        self._process = process
        self._on_change = on_change
        self.is_ready = self.has_ended = False
        self.failure: ProcessFailed | None = None
        self._scope = trio.CancelScope()

    def hurry(self) -> None:
        """It is an old one: have it end soon."""
        self._scope.deadline = trio.current_time() + _OLD

    def interrupt(self, cause: Cause) -> object:
        return self._process.interrupt(cause)

    async def execute(self) -> None:
        try:
            with self._scope:
                await self._process.execute(task_status=self)
        except ProcessFailed as exc:
            self.failure = exc
        finally:
            self.has_ended = True
            self._on_change()
        if self._scope.cancelled_caught:
            logger.warning("reload: the old server was killed: it had %g s to end", _OLD)

    def started(self, value: None = None) -> None:  # noqa: ARG002 - as TaskStatus has it
        """It is ready, the process says."""
        self.is_ready = True
        self._on_change()


def _runs(group: Group) -> bool:
    return group.state in (State.STARTING, State.RUNNING)


async def _sorry(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """An ASGI app that says that the other one does not run."""
    if scope["type"] == "lifespan":
        return
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close"})
        return
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"retry-after", b"1")]
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": _SORRY})
