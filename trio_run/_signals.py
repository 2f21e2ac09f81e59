"""SignalReceiver: which signals stop the group, and which call a function.

What a stop by a signal does, and what a second one does, is the group's business.
"""

from __future__ import annotations

import inspect
import logging
import signal
import threading
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING

import trio

from ._group import supervisor_of
from ._inside import place
from ._member import Life

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager

    from ._arrivals import Arrivals

logger = logging.getLogger("trio_run")

_UNCATCHABLE = frozenset(
    getattr(signal, name) for name in ("SIGKILL", "SIGSTOP") if hasattr(signal, name)
)


class SignalReceiver:
    """An actor that stops its group at a signal: gracefully at the first, hard at the second.

    A third is left to Python's default, as are all of them once the group has stopped. It is a
    daemon, so it listens until everything else has stopped.

    Args:
      signals: those that stop the group; SIGINT and SIGTERM if none is given.
      handlers: functions to call at other signals, ``{signal.SIGHUP: reload}``: plain or async,
        without arguments. One that is still at it is called once more when it is done, however
        often its signal came meanwhile; those of other signals do not wait for it. One that raises
        is logged, and the group goes on. Async ones are cancelled softly at the stop.

    Raises:
      TypeError, ValueError: for something that is no signal or cannot be caught, and for a signal
      that is both.
      RuntimeError: from :meth:`execute`, outside a group or outside the main thread, the only one
        that Python lets catch signals.
    """

    name = "signals"
    daemon = True

    def __init__(
        self,
        *signals: signal.Signals | int,
        handlers: Mapping[signal.Signals, Callable[[], object]] | None = None,
    ) -> None:
        self.signals = tuple(_check_signal(s) for s in signals or (signal.SIGINT, signal.SIGTERM))
        self.handlers = {_check_signal(s): fn for s, fn in (handlers or {}).items()}
        for signum, fn in self.handlers.items():
            if not callable(fn):
                raise TypeError(f"the handler of {signum.name} must be a function, not {fn!r}")
            if signum in self.signals:
                raise ValueError(f"{signum.name} can't both stop the group and have a handler")
        self.arrivals: Arrivals | None = None  # set by trio_run.run()
        # Set by who says to a service manager that a reload goes on.
        self.around_handler: Callable[[signal.Signals], AbstractContextManager[None]]
        self.around_handler = lambda _signum: nullcontext()

    async def execute(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Receive signals, for the group that it is in. Started when it does.

        Raises:
          RuntimeError: if it is in no group, or not in the main thread.
        """
        here = place.get()
        if here is None or not isinstance(here.inside, Life):
            raise RuntimeError("SignalReceiver stops the group it is in: add() it to one")
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError(
                "signals can be received in the main thread only: run Trio there, or leave the "
                "SignalReceiver out and call the group's stop()"
            )
        requests = supervisor_of(here.inside.group).requests
        due: dict[signal.Signals, trio.MemorySendChannel[None]] = {}
        with trio.open_signal_receiver(*self.signals, *self.handlers) as received:
            early = self._open_arrivals()
            async with trio.open_nursery() as nursery:
                for signum in self.handlers:
                    due[signum], arrived = trio.open_memory_channel[None](1)
                    nursery.start_soon(self._handle, signum, arrived)
                task_status.started()
                for signum in early:
                    requests.signalled(signum)
                async for number in received:  # pragma: no branch - it has no end
                    signum = signal.Signals(number)
                    if signum in due:
                        if not self._is_dealt_with(signum):
                            with suppress(trio.WouldBlock):  # it is due already
                                due[signum].send_nowait(None)
                    elif requests.signalled(signum):
                        break  # and leave the next one to Python
                if self.arrivals is not None:
                    self.arrivals.leave_to_python()
                nursery.cancel_scope.cancel("a second signal came")

    def _is_dealt_with(self, signum: signal.Signals) -> bool:  # noqa: ARG002 - for a subclass
        """Asked as it comes: its handler may have to wait for its turn, and is not called then."""
        return False

    def _open_arrivals(self) -> list[signal.Signals]:
        """Have run() hear of each signal too. Returns those that came before."""
        if self.arrivals is None:
            return []
        for signum in self.signals:
            self.arrivals.tap(signum)
        return self.arrivals.take()

    async def _handle(
        self, signum: signal.Signals, arrived: trio.MemoryReceiveChannel[None]
    ) -> None:
        async for _ in arrived:
            logger.info("%s: %s received", self.name, signum.name)
            with self.around_handler(signum):
                try:
                    pending = self.handlers[signum]()
                    if inspect.isawaitable(pending):
                        await pending
                except Exception:
                    logger.exception("%s: the handler of %s failed", self.name, signum.name)


def _check_signal(number: int) -> signal.Signals:
    try:
        signum = signal.Signals(number)
    except ValueError:
        raise ValueError(f"{number!r} is not a signal of this platform") from None
    if signum in _UNCATCHABLE:
        raise ValueError(f"{signum.name} can't be caught: no program can handle it")
    return signum
