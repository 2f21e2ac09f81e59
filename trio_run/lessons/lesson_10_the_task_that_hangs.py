"""When it does not stop: finding the task that hangs

A till prints its last receipt when it is closed, and so that nobody disturbs
it, the printing is shielded from cancellation. The printer does not answer.
Now the program does not stop.

In Go you send SIGQUIT: the program prints the stack of every goroutine, and
exits. Among some hundreds you look for the one. oklog/run says nothing
meanwhile: it waits. errgroup and WaitGroup wait just so.

Here the log says it, and when. The times of this lesson are short:

    2 s   the grace is over: the till is cut. But the shield keeps that from it
    5 s   who is waited for, with its status; again every 5 seconds
    7 s   5 seconds after the cut, the stack of each of its tasks
    9 s   the printer answers at last, and the lesson ends

If it never did, run() would end the process: abort_after, 10 seconds here,
past the grace, with the stacks of all threads. That works even when a task
blocks everything with a `while True: pass`. The cure is in the stack: a shield
needs a time limit.
"""

from __future__ import annotations

import trio

from trio_run import run

TRY = """\
In another terminal, stop it, and wait 9 seconds:

    kill -TERM {pid}"""


class Till:
    name = "till"
    status = "open"

    async def execute(self) -> None:
        try:
            await trio.sleep_forever()  # it has no interrupt: the stop cancels it here
        finally:
            self.status = "printing the last receipt"
            await print_receipt()
            self.status = "closed"


async def print_receipt() -> None:
    # The mistake. move_on_after(1, shield=True) would be shielded for a second, and then give up.
    with trio.CancelScope(shield=True):
        await ask_printer()


async def ask_printer() -> None:
    await trio.sleep(9)


def main(_port: int) -> int:
    return run(Till(), name="shop", grace=2, abort_after=10)
