"""HypercornServer: the actor around Hypercorn, for those who need HTTP/2 or HTTP/3.

How it drains is Hypercorn's own business.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

from .._errors import CannotStart, unwrapped
from ._bind import CannotListen
from ._http._lifespan import Lifespan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hypercorn.config import Config

    from .._actor import Cause
    from ._http._lifespan import ASGIApp


class HypercornServer:
    """An actor that serves an ASGI app with Hypercorn.

    That speaks HTTP/1.1, HTTP/2 and, with its extra h3, HTTP/3. It needs the extra ``hypercorn``.
    Where HTTP/1.1 is enough, as behind a proxy that speaks the rest, :class:`HTTPListener` is what
    stops without a loss. Of Hypercorn 0.18 a stop can expect less:

    * At rest it drains well. Under load it closes connections whose next request is just being
      read: such a request may have reached the app, and is never answered.
    * Connections that are still open end after ``config.graceful_timeout`` seconds (its default is
      3), and under load the stop takes all of that. Make it shorter than the grace, or the grace
      cuts first.
    * :class:`busy` and :func:`stopping` know the actor, not a request: a busy block holds the
      actor's soft cancel off, not Hypercorn's timeout.

    Args:
      app: an ASGI app that runs on Trio.
      config: a :class:`hypercorn.config.Config`: where it binds, its certificate, its timeouts.
      name: its name in logs and the report.
      grace: how many seconds it may take to stop; None for as long as the group's.

    Raises:
      ImportError: if the extra is not installed.
      TypeError: for an argument that can't be right.
      CannotStart: from :meth:`execute`, when it can't listen there, or the app can't start up.
    """

    def __init__(
        self, app: ASGIApp, config: Config, *, name: str = "hypercorn", grace: float | None = None
    ) -> None:
        try:
            from hypercorn.config import Config
            from hypercorn.trio import serve
        except ImportError as exc:
            raise ImportError(
                "HypercornServer needs Hypercorn: pip install 'trio-run[hypercorn]'"
            ) from exc
        if not callable(app):
            raise TypeError(f"the app must be an ASGI app, not {app!r}")
        if not isinstance(config, Config):
            raise TypeError(f"config must be a hypercorn.config.Config, not {config!r}")
        self.name = name
        self.grace = grace
        self._app = app
        self._config = config
        self._serve: Any = serve
        self._stop = trio.Event()

    def interrupt(self, cause: Cause) -> None:  # noqa: ARG002 - why does not matter here
        """Begin to drain."""
        self._stop.set()

    async def execute(
        self, *, task_status: trio.TaskStatus[Sequence[Any]] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Start the app up, serve until interrupted and drained, and shut the app down.

        Started, with where it listens, when it does.
        """
        lifespan = Lifespan(self._app, self.name)

        async def app(scope: Any, receive: Any, send: Any) -> None:
            # That of Hypercorn, which has none of the app's failures stop it.
            if scope["type"] == "lifespan":
                for _ in range(2):
                    message = await receive()
                    await send({"type": f"{message['type']}.complete"})
                return
            if lifespan.state is not None:
                scope["state"] = lifespan.state.copy()
            await self._app(scope, receive, send)

        async def serve() -> None:
            try:
                await self._serve(
                    app, self._config, shutdown_trigger=self._stop.wait, task_status=task_status
                )
            except ExceptionGroup as group:
                error = unwrapped(group)
                if isinstance(error, OSError) and error.errno is not None:
                    raise CannotListen(", ".join(self._config.bind), error) from group
                raise

        self._check_certificate()
        await lifespan.around(serve, self._stop.set)

    def _check_certificate(self) -> None:
        """Hypercorn's own error does not say what is missing."""
        try:
            self._config.create_ssl_context()
        except OSError as exc:
            files = f"{self._config.certfile} and {self._config.keyfile}"
            raise CannotStart(f"cannot use the certificate and key in {files}: {exc}") from exc
