"""StatusPage: where it listens, which group it is about, and when its time is over.

What it answers is decided in _app.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import trio

from .._group import current_group
from .._listeners._http._listener import HTTPListener

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from .._actor import Cause

_MOST_CONNECTIONS = 128  # a quarter of them may be viewers, so that there is room for the probes
_TIMEOUT = 3.0  # seconds: who asks nothing gives his place to a probe


class StatusPage:
    """A daemon that says how its group is, to probes, to Prometheus, and to a person in a browser.

    It needs the extra ``http``. It has a port of its own, and answers from before the other actors
    begin until all but daemons have stopped:

    - ``/livez``: 200 as long as the event loop turns.
    - ``/readyz``: 200 while the group is ready, else 503.
    - ``/status``: the group and its actors, as JSON.
    - ``/metrics``: the same for Prometheus, with whatever else the program has registered with
      ``prometheus_client``, which is the extra ``metrics``. Without that it is 501.
    - ``/``: a page that shows the group live. At a stop the bars of its timeline grow, who holds it
      up is red, and the last line says how it ended. If everything is cut, it says who has not
      stopped yet.

    A viewer who takes what he is sent holds up no stop. One who takes nothing may make it longer by
    half a second, which he has for the last line. While nobody looks there is no task and no timer
    for it. There may be 128 connections, 32 of them viewers. All others end with their answer, or
    when they have asked nothing for 3 seconds.

    It is for this machine, and knows no passwords. With another ``host`` others see it, too:
    nothing but names, status lines and failures, and nothing changes by a GET. All but the probes
    have to ask by an address of ours, by the name of this machine, or by one of ``names``, so that
    no page of another site can read it. Before it opens to the world, put a proxy in front.

    Args:
      port: where to listen. With 0 the kernel chooses, and ``addresses`` says what.
      host: on which interface; None is every one.
      path: listen on a Unix socket there, instead of a port.
      can_stop: have the page show a button that stops the group. Then whoever reaches the port, by
        an address or name of ours, may stop it: there is no password.
      name: what it is called in logs and the report.
      check: a plain function that returns a sentence if the program had better be begun anew, and
        else nothing. Then ``/livez`` is 503 with the sentence, which anybody who reaches the port
        is shown. It is called at each request, and is to return at once.
      names: by what other names of hosts it may be asked for, without a port: that of a service in
        Compose or Kubernetes, or one in the DNS.

    Raises:
      ImportError: if the extra is not installed.
      TypeError, ValueError: for an argument that can't be right.
      RuntimeError: from :meth:`execute`, outside a group.
      CannotStart: from :meth:`execute`, when it can't listen there.
    """

    daemon = True
    grace = 0.5  # seconds: whoever looks, and takes nothing, is not waited for

    def __init__(
        self,
        port: int | None = None,
        *,
        host: str | None = "127.0.0.1",
        path: str | bytes | os.PathLike[str] | None = None,
        can_stop: bool = False,
        name: str | None = None,
        check: Callable[[], str | None] | None = None,
        names: Collection[str] = (),
    ) -> None:
        if (port is None) == (path is None):
            raise ValueError("StatusPage takes either a port or a path")
        if check is not None and not callable(check):
            raise TypeError(f"check must be a function without arguments, not {check!r}")
        if isinstance(names, str) or not all(isinstance(each, str) for each in names):
            raise TypeError(f"names must be several strings, not {names!r}")
        where = f"{port}" if path is None else os.fsdecode(path)
        self.name = name or f"status:{where}"
        from ._app import App  # and with it Prometheus' package, where it is installed
        from ._guard import Guard

        self._app = App(Guard(host, names), can_stop=can_stop, check=check)
        try:
            self._listener = HTTPListener(
                self._app,
                port,
                host=None if port is None else host,
                path=path,
                idle_timeout=_TIMEOUT,
                header_timeout=_TIMEOUT,
                max_connections=_MOST_CONNECTIONS,
                name=self.name,
            )
        except ImportError as exc:
            raise ImportError(f"StatusPage: {exc}") from exc

    @property
    def addresses(self) -> tuple[Any, ...]:
        """Where it listens, once it does."""
        return self._listener.addresses

    @property
    def status(self) -> str:
        """As :attr:`TCPListener.status`."""
        return self._listener.status

    def interrupt(self, cause: Cause) -> None:
        """All but daemons are over: show the viewers how it ended, and drain."""
        self._app.viewers.end()
        self._listener.interrupt(cause)

    async def execute(
        self, *, task_status: trio.TaskStatus[Sequence[Any]] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Listen, and answer until interrupted. Started with its addresses when it listens."""
        group = current_group()
        if group is None:
            raise RuntimeError("StatusPage shows the group it is in: add() it to one")
        self._app.attach(group)
        await self._listener.execute(task_status=task_status)
