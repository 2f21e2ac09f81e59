"""The same by hand, so that nothing is magic

Here is a group in some 40 lines of plain Trio. It is what oklog/run does:
start every execute, wait until the first has returned, call every interrupt,
one after the other, wait until all have returned, and say how the first one
ended. What Go does with goroutines and a channel of errors, a nursery and an
event do here.

The core of the idea is cancellable(): a task in a cancel scope is an actor,
and to cancel the scope is its interrupt.

What it leaves out, and trio_run has, is among others: a grace (an actor that
does not return holds this up for ever), the errors of all but the first (here
they are lost), an order, actors that are busy (a visitor is cut off in the
middle), a second signal, and a report. oklog/run leaves these out too.
"""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable

import trio

TRY = """\
In another terminal, buy two loaves, then stop it:

    echo 2 | nc 127.0.0.1 {port}
    kill -TERM {pid}

Start the lesson again, and let an actor fail:

    echo two | nc 127.0.0.1 {port}"""

Execute = Callable[[], Awaitable[None]]
Interrupt = Callable[[], None]


async def run_group(actors: list[tuple[Execute, Interrupt]]) -> Exception | None:
    """Run actors until the first exits, then stop them all. Returns the error of the first."""
    exits: list[Exception | None] = []
    somebody_exited = trio.Event()

    async def live(execute: Execute) -> None:
        error: Exception | None = None
        try:
            await execute()
        except Exception as exc:
            error = exc  # the nursery must not see it, or it would cancel everybody
        exits.append(error)
        somebody_exited.set()

    async with trio.open_nursery() as nursery:
        for execute, _ in actors:
            nursery.start_soon(live, execute)
        await somebody_exited.wait()
        for _, interrupt in actors:
            interrupt()
        # The end of the block waits for all of them.
    return exits[0]


def cancellable(fn: Callable[..., Awaitable[object]], *args: object) -> tuple[Execute, Interrupt]:
    scope = trio.CancelScope()

    async def execute() -> None:
        with scope:
            await fn(*args)

    return execute, scope.cancel


async def wait_for_signal() -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        print("signals:", signal.Signals(await anext(signals)).name, "came")


async def sell(stream: trio.SocketStream) -> None:
    loaves = int(await stream.receive_some())
    await stream.send_all(f"That is {3 * loaves} crowns.\n".encode())
    print("shop: sold", loaves)


async def keep_shop(port: int) -> None:
    listeners = await trio.open_tcp_listeners(port, host="127.0.0.1")
    print("shop: open")
    await trio.serve_listeners(sell, listeners)


def main(port: int) -> int:
    actors = [cancellable(keep_shop, port), cancellable(wait_for_signal)]
    error = trio.run(run_group, actors)
    print("main: all have stopped; the first one's error is", repr(error))
    return 0 if error is None else 1
