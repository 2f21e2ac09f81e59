"""Bell: how the one task that acts is woken.

It may be rung from any place in Trio's thread, also from a signal handler, which runs between two
instructions of anything: of a ring, of a wait, of Trio's own scheduler. Each step here is therefore
one operation that nothing can come between. What is done when it has rung is decided in
_supervisor.
"""

from __future__ import annotations

import trio


class Bell:
    """Wakes the one task that waits for it. A ring before the wait is heard, too."""

    __slots__ = ("_has_rung", "_sleepers", "_token")

    def __init__(self) -> None:
        self._has_rung = False
        self._sleepers: list[trio.lowlevel.Task] = []  # one at the most
        self._token = trio.lowlevel.current_trio_token()

    def ring(self) -> None:
        self._has_rung = True
        try:
            trio.lowlevel.current_task()
        except RuntimeError:
            # A signal handler has interrupted Trio's scheduler, whose lists are not to be touched.
            self._token.run_sync_soon(self.ring, idempotent=True)
            return
        try:
            sleeper = self._sleepers.pop()
        except IndexError:
            return
        trio.lowlevel.reschedule(sleeper)

    def clear(self) -> None:
        """Forget that it has rung. Whoever waits looks around after this, and before it waits."""
        self._has_rung = False

    async def wait(self) -> None:
        """Wait until it rings; if it has rung, for one round of the scheduler."""
        if self._has_rung:
            await trio.lowlevel.checkpoint()
            return
        self._sleepers.append(trio.lowlevel.current_task())

        def abort(_raise_cancel: object) -> trio.lowlevel.Abort:
            try:
                self._sleepers.pop()
            except IndexError:  # it has just been woken
                return trio.lowlevel.Abort.FAILED
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)
