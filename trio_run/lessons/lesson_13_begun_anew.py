"""The actor that is begun anew

A shop follows the prices of an exchange. The connection breaks now and then.
The first actor to exit stops all, so that would end the shop. But its clients
can do with the last prices for a while.

In Go people write a loop around it: connect, log the error, time.Sleep, again.
Such a loop sleeps through a stop, it goes on for ever if nothing gets better,
and nobody is told that the prices are old. Erlang's supervisors, and suture in
Go, do better: they wait longer each time, and give up in the end, so that
somebody else may try.

Here that is Restarting. While the actor is down, the group is not ready, and a
load balancer can see it. Each failure is in the log, and the report counts the
lives. A stop ends the wait, and nothing is begun after it. Too many failures
are a failure: in this lesson the third one within a minute stops the shop,
with exit code 1, and a service manager begins the whole program anew.
"""

from __future__ import annotations

import trio

from trio_run import Group, Restarting, TCPListener, run

TRY = """\
In another terminal, break the connection to the exchange, and ask how the shop
is (copy both lines at once):

    echo break | nc 127.0.0.1 {port}
    echo how are you | nc 127.0.0.1 {port}

When it is ready again, stop it; or break it once more, which is too much:

    echo how are you | nc 127.0.0.1 {port}
    kill -TERM {pid}"""


class Prices:
    """The connection to the exchange."""

    def __init__(self) -> None:
        self.number = 0
        self.broken = trio.Event()

    async def follow(self, *, task_status: trio.TaskStatus[None]) -> None:
        self.number += 1
        print(f"prices: connection {self.number}")
        await trio.sleep(0.2)
        if self.number == 2:
            raise OSError("no route to the exchange")
        task_status.started()  # from now on the shop is ready, if all else is
        self.broken = trio.Event()
        await self.broken.wait()
        raise OSError("the exchange has hung up")


def main(port: int) -> int:
    prices = Prices()
    group = Group(name="shop", grace=10)

    async def answer(stream: trio.abc.Stream) -> None:
        if b"break" in await stream.receive_some():
            prices.broken.set()
            await stream.send_all(b"It is broken.\n")
        elif group.ready:
            await stream.send_all(b"Ready.\n")
        else:
            await stream.send_all(b"Not ready: the prices are old.\n")

    group.add(Restarting(prices.follow, first=1, limit=2, within=60, name="prices"))
    group.add(TCPListener(answer, port, host="127.0.0.1", name="shop door"))
    return run(group)
