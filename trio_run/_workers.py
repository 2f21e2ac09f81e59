"""Workers: how many processes serve on the same sockets, and when one of them is begun anew.

How one process is started, spoken to and ended is decided in _process. How long to wait before a
worker is begun anew, and how many failures are too many, is decided in _restart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

if TYPE_CHECKING:
    import os
    import socket
    from collections.abc import Mapping, Sequence

    from ._actor import Cause
    from ._listeners._bind import Endpoint


class Workers:
    """An actor that is several processes of one command, on the same listening sockets.

    This process binds the sockets and holds them. So no connection is refused or reset while a
    worker is begun anew or replaced. Each worker gets them as systemd hands them over, and finds
    them with :func:`inherited_sockets`. With ``notify`` it says READY=1 when it serves, as
    :func:`run` does.

    It is ``ready`` while one of its workers is. A worker that ends by itself, with whatever code,
    is begun anew by the terms of a :class:`Restarting`, which are counted for each. At the start
    that is otherwise: one that ends before it was ready, or is not ready within ``ready_within``,
    is a failure at once.

    Interrupted, it signals each worker with SIGTERM and waits until they have ended. The sockets
    are closed then. Those that this process has bound itself, unlike those of
    :func:`inherited_sockets`, take no new client from the interrupt on.

    Its status is "4 workers, 3 ready, 1 restart, 8 replaced".

    Args:
      command: the program and its arguments, for each worker.
      count: how many workers; None for as many as there are cores for this process, by its affinity
        and the quota of its cgroup.
      env, cwd: as for :class:`Process`.
      sockets: what the workers serve on: bound sockets by their names, as
        :func:`inherited_sockets` returns them, or a list of some without names.
      notify: does a worker say when it is ready? Else it is ready when it runs.
      ready_within: how many seconds a worker may take until it is ready.
      stuck_after: how many seconds a worker's event loop may take to come round; then it is killed,
        and begun anew. It hears of it as WATCHDOG_USEC. It goes with ``notify``. None is never.
      name: its name in logs and the report, "workers" if None.
      grace: how many seconds a worker may take to stop, None for as long as the group's.

    Raises:
      TypeError, ValueError: for an argument that can't be right.
      CannotStart, ProcessFailed: from :meth:`execute`, for a worker that could not start or was
        never ready at the start; an ExceptionGroup if a worker failed too often; RuntimeError
        outside a group.
    """

    def __init__(
        self,
        command: Sequence[str | os.PathLike[str]],
        count: int | None = None,
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        sockets: Mapping[str, Sequence[socket.socket]] | Sequence[socket.socket] | None = None,
        notify: bool = True,
        ready_within: float = 60.0,
        stuck_after: float | None = None,
        name: str | None = None,
        grace: float | None = None,
    ) -> None:
        self._arguments = (command, count, env, cwd, sockets, notify, ready_within, stuck_after)
        self.name = name or "workers"
        self.grace = grace
        # Set by a command line: what execute() is to open and close itself, by their names.
        self.endpoints: Mapping[str, Endpoint] = {}

    @property
    def ready(self) -> bool:
        """Is one of the workers?"""
        raise NotImplementedError

    @property
    def status(self) -> str:
        """How many workers there are, how many are ready, and how many were begun anew."""
        raise NotImplementedError

    @property
    def addresses(self) -> tuple[Any, ...]:
        """Where the workers listen, once it runs: the address of each socket."""
        raise NotImplementedError

    async def execute(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Keep the workers until interrupted. Started when one of them is ready."""
        raise NotImplementedError

    def interrupt(self, cause: Cause) -> None:
        """Signal each worker to stop."""
        raise NotImplementedError

    async def replace(self) -> bool:
        """Replace each worker, one after the other, with one that is begun anew from disk.

        The new one is started; when it is ready, the old one is signalled, and the next has its
        turn. The old ones finish what they have, within their grace. They may still be at that when
        this returns. A call while workers are being replaced waits for that, and has them replaced
        once more; of several such calls that is done once. A stop ends it.

        Returns:
          Whether all were replaced. False if a new one was not ready within ``ready_within``: that
          is logged, and the old ones that are left go on serving; or if a stop came.

        Raises:
          RuntimeError: if it does not run.
        """
        raise NotImplementedError

    def more(self) -> None:
        """Begin one more worker. While it does not run, or stops, this does nothing."""
        raise NotImplementedError

    def fewer(self) -> None:
        """Stop one worker, that which was begun last. The only one that there is stays."""
        raise NotImplementedError
