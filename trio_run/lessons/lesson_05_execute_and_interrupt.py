"""Execute and interrupt: a baker, a door and a ticker

Some work should not be cancelled wherever it is: a loaf that is in the oven is
finished. So a stop interrupts first, and an interrupt is a request.

In Go this is oklog/run. An actor is a pair of functions: execute, which does
the work, and interrupt, which makes execute return. Run() starts every execute
in a goroutine, and waits until the first returns. Then it calls the
interrupts, one after the other, and waits until all executes have returned,
however long that takes. If one interrupt hangs, the actors after it are never
interrupted.

Here the pair is the same. The interrupts are called all at once, each exactly
once, and may be async: a slow one holds up nobody else. An actor that has no
interrupt is cancelled; but what it does inside busy() finishes first, and
every() does that for you. And the grace bounds all of it: when it is over,
what still runs is cancelled, busy or not.
"""

from __future__ import annotations

import trio

from trio_run import Cause, Group, every, run

TRY = """\
Let it bake for a while. Then, in another terminal:

    kill -TERM {pid}

See in the report how the baker took its time, and the others did not."""


class Baker:
    """An actor that is an object: it has execute, interrupt, and a status for the report."""

    name = "baker"

    def __init__(self) -> None:
        self.loaves = 0
        self.closing = False

    async def execute(self) -> None:
        while not self.closing:
            await trio.sleep(2)  # a loaf is in the oven
            self.loaves += 1
            print(f"baker: loaf {self.loaves} is ready")

    def interrupt(self, cause: Cause) -> None:
        print(f"baker: {cause}: I finish this loaf")
        self.closing = True

    @property
    def status(self) -> str:
        return f"{self.loaves} loaves"


def main(_port: int) -> int:
    group = Group(name="bakery", grace=10)
    baker = Baker()
    group.add(baker)

    # An actor that is a pair of functions, as oklog/run has it.
    closed = trio.Event()

    async def open_door() -> None:
        print("door: open")
        await closed.wait()
        print("door: closed")

    group.add(open_door, lambda _cause: closed.set())

    # An actor without an interrupt: a ticker.
    def count() -> None:
        print("ticker:", baker.status, "so far")

    group.add(every(5, count))
    return run(group)  # adds a SignalReceiver, and shows the log and the report
