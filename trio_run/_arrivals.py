"""Arrivals: what run() hears of signals itself, from its first moment to its last.

A SignalReceiver hears of them while the group runs, in Trio's tasks. Before that and after it a
signal is kept here; and whatever blocks the event loop, the watchdog hears of each at once.
"""

from __future__ import annotations

import os
import signal
import threading
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import FrameType, TracebackType


class Arrivals:
    """Handlers of signals, for a block; then what was there before is back."""

    def __init__(self) -> None:
        self.on_arrival: Callable[[], None] = lambda: None
        self._before: dict[int, Any] = {}
        self._pending: list[signal.Signals] = []
        self._is_python_s_turn = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for signum, before in self._before.items():
            signal.signal(signum, before)

    def hear(self, signals: Iterable[signal.Signals]) -> None:
        """Keep these from now on, where that can be done."""
        if threading.current_thread() is threading.main_thread():
            for signum in set(signals).difference(self._before):
                before = signal.getsignal(signum)
                if before is not None:  # else C code has set it, and Python can't set it back
                    self._before[signum] = before
                    signal.signal(signum, self._came)

    def _came(self, number: int, _frame: FrameType | None) -> None:
        if self._is_python_s_turn:
            signal.signal(number, self._before[number])
            os.kill(os.getpid(), number)
        else:
            self.on_arrival()
            self._pending.append(signal.Signals(number))

    def take(self) -> list[signal.Signals]:
        """Those that came before a receiver was there."""
        pending, self._pending = self._pending, []
        return pending

    def leave_to_python(self) -> None:
        """Do with the next one what was done before."""
        self._is_python_s_turn = True

    def tap(self, signum: signal.Signals) -> None:
        """Hear of a signal too that a receiver has; who restores its handler ends that."""
        handler = signal.getsignal(signum)
        assert callable(handler)

        def both(number: int, frame: FrameType | None) -> None:
            self.on_arrival()
            handler(number, frame)

        signal.signal(signum, both)
