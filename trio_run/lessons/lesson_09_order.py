"""Order: what must outlive what

A shop writes its orders into a ledger. At a stop the ledger has to stay open
until the last order is in, or that one is lost, with its client waiting.

In Go the order of a stop is the order of lines: Shutdown, then Wait, then
Close, and defers run backwards. In oklog/run all actors start at the same
time, and are interrupted in the order in which they were added; but nobody
waits in between, so each has to be ready for the others to be gone.

Here an actor says what it needs. It starts when that is ready, and what it
needs is interrupted only when it has stopped. A daemon comes last of all, and
does not keep the group alive: a log, or a health check. The report shows it:
the bar of the ledger begins where that of the orders ends.
"""

from __future__ import annotations

import trio

from trio_run import Cause, Group, TCPListener, busy, every, run

TRY = """\
In another terminal, order something, which takes 3 seconds, and stop the
program meanwhile, all in one line:

    echo bread | nc 127.0.0.1 {port} & sleep 1; kill -TERM {pid}"""


class Ledger:
    name = "ledger"

    def __init__(self) -> None:
        self.orders: list[str] = []
        self.closing = trio.Event()

    async def execute(self, *, task_status: trio.TaskStatus[None]) -> None:
        print("ledger: opening")
        await trio.sleep(1)
        task_status.started()  # now it is ready, and who needs it may start
        await self.closing.wait()
        await trio.sleep(2)
        print("ledger: closed, with", self.orders)

    def interrupt(self, _cause: Cause) -> None:
        print("ledger: the last order is in, so I close")
        self.closing.set()


def main(port: int) -> int:
    ledger = Ledger()

    async def take_orders(stream: trio.abc.Stream) -> None:
        async for data in stream:  # ends when the client leaves, or when we stop
            with busy():  # from here on the order will be written, and confirmed
                print("shop: an order comes in")
                await trio.sleep(3)
                ledger.orders.append(data.decode().strip())
                await stream.send_all(b"It is in the ledger.\n")

    async def open_sign() -> None:
        print("shop: open, since the ledger is ready")

    group = Group(name="shop", grace=10)
    # What is needed is added before what needs it. Else the order of these lines is free.
    heart = every(1, lambda: print("heart: beating; in the ledger:", len(ledger.orders)))
    group.add(heart, name="heart", daemon=True)
    opened = group.add(ledger)
    orders = TCPListener(take_orders, port, host="127.0.0.1", name="orders")
    serving = group.add(orders, needs=[opened])
    group.add(open_sign, needs=[serving], on_return="ignore")  # it may return: nobody stops
    return run(group)
