"""What any ASGI app hears of: that the server starts and stops (lifespan), and that a client is
gone.

What it receives of one request is decided in _exchange, of one WebSocket in _websocket.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import trio

from ..._errors import CannotStart, cannot_start, one_line, split_cancelled
from ..._inside import busy, cancel_on_stop, place
from ..._member import Life

if TYPE_CHECKING:
    from collections.abc import MutableMapping

logger = logging.getLogger("trio_run")

ASGIApp = Callable[[Any, Any, Any], Awaitable[object]]
Message = dict[str, Any]

_AFTERWARDS = 1.0  # seconds for an app to return, when it has said that it has shut down


class ClientDisconnected(OSError):
    """The app sends to a client that is gone, or that broke the protocol.

    As ASGI wants it, an OSError.
    """


class Lifespan:
    """The app's lifespan: its start-up before the first request, its shutdown after the last.

    An app that knows nothing of it raises or returns at once: then there is none, and that is fine.
    """

    def __init__(self, app: ASGIApp, name: str) -> None:
        self.state: dict[str, Any] | None = None  # for the scopes, where the app has a lifespan
        self._app = app
        self._name = name
        self._app_state: dict[str, Any] = {}
        self._to_app = trio.Event()  # shut down
        self._told_startup = False
        self._told_shutdown = False
        self._settled = trio.Event()  # started up, or there is no lifespan
        self._shut = trio.Event()  # shut down, as it says
        self._over = trio.Event()  # returned
        self._started = False
        self._failure: str | None = None  # what the app said
        self._error: Exception | None = None  # what it raised
        self._scope = trio.CancelScope()

    async def around(
        self, serve: Callable[[], Awaitable[object]], interrupt: Callable[[], object]
    ) -> None:
        """Start the app up, serve, and shut it down.

        Interrupted meanwhile, a start-up is cancelled. If the app raises while it is served, its
        actor is stopped; where there is none, ``interrupt()`` is called.

        Raises:
          CannotStart: if the app says that it can't start up, with what it says.
          Exception: what serve() raised, or the app in its lifespan.
        """
        failure: Exception | None = None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._live, interrupt)
                try:
                    with cancel_on_stop() as starting:
                        await self._start_up()
                    if not starting.cancelled_caught:
                        try:
                            await serve()
                        except Exception as exc:
                            failure = exc
                            self._give_up(exc, interrupt)  # so that a grace bounds the shutdown
                        finally:
                            # A soft cancel, where we are only a part of the actor, ends neither
                            # that nor what requests need.
                            with busy():
                                await self._shut_down()
                except Exception as exc:
                    failure = failure or exc
                finally:
                    self._scope.cancel("the app's lifespan is over")
        finally:
            # What it raised when it was cut, or had said that it had shut down.
            if failure is None and self._started:
                failure = self._error
            if failure is not None:
                raise failure  # itself, in no nursery's group; and even if the rest was cut

    async def _live(self, interrupt: Callable[[], object]) -> None:
        await self._call_app()
        if self._started and self._error is not None and not self._to_app.is_set():
            self._give_up(self._error, interrupt)

    def _give_up(self, error: Exception, interrupt: Callable[[], object]) -> None:
        """Stop, to fail with this in the end."""
        quietly = cannot_start(error)  # who runs the group says it, once
        level = logging.DEBUG if quietly else logging.INFO
        logger.log(level, "%s: stopping, for %s", self._name, one_line(error))
        here = place.get()
        if here is not None and isinstance(here.inside, Life):
            here.inside.stop(quietly=quietly)
        else:
            interrupt()

    async def _call_app(self) -> None:
        """The app's own task for it. Raises nothing that is the app's."""
        version = {"version": "3.0", "spec_version": "2.0"}
        scope = {"type": "lifespan", "asgi": version, "state": self._app_state}
        try:
            with busy(), self._scope:
                await self._app(scope, self._receive, self._send)
        except BaseException as exc:
            cancelled, error = split_cancelled(exc)
            if cancelled:
                self._failure = None  # as frameworks say it: that they were cut
            if cancelled or not isinstance(error, Exception):
                raise
            self._error = error
        finally:
            self._settled.set()
            self._shut.set()
            self._over.set()

    async def _start_up(self) -> None:
        """Wait until the app has started up."""
        await self._settled.wait()
        if self._failure is not None:
            raise CannotStart(self._failure or "the app's start-up failed")
        if self._started:
            self.state = self._app_state
        elif self._error is not None and self._told_startup:
            # ASGI takes this for an app without a lifespan. It may be a start-up that failed.
            logger.warning(
                "%s: the app raised in its lifespan: it goes on without",
                self._name,
                exc_info=self._error,
            )
        else:
            logger.debug("%s: the app has no lifespan", self._name)

    async def _shut_down(self) -> None:
        """Have the app shut down, and wait until it has. What it raised is raised."""
        if not self._started:
            return
        self._to_app.set()
        if not self._over.is_set():  # else a cancel would take the place of what it raised
            await self._shut.wait()
            with trio.move_on_after(_AFTERWARDS):
                await self._over.wait()
        if self._error is not None:
            if self._failure:
                self._error.add_note(f"the app's shutdown failed: {self._failure}")
            raise self._error
        if self._failure is not None:
            raise RuntimeError(f"the app's shutdown failed: {self._failure}")

    async def _receive(self) -> Message:
        if not self._told_startup:
            self._told_startup = True
            return {"type": "lifespan.startup"}
        await self._to_app.wait()
        if self._told_shutdown:
            await trio.sleep_forever()
        self._told_shutdown = True
        return {"type": "lifespan.shutdown"}

    async def _send(self, message: MutableMapping[str, Any]) -> None:
        kind = message["type"]
        expected = "shutdown" if self._started else "startup"
        if kind == f"lifespan.{expected}.complete":
            (self._shut if self._started else self._settled).set()
            self._started = True
        elif kind == f"lifespan.{expected}.failed":
            self._failure = message.get("message", "")
            (self._shut if self._started else self._settled).set()
        else:
            raise RuntimeError(
                f"the app sent {kind!r} in its lifespan, where lifespan.{expected}.complete or "
                f".failed is due"
            )
