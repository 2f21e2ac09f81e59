"""The program that says how it is

It is night, and a program does not stop. What does it wait for? Is it ready?
How many clients has it? The log may say it, if somebody has thought of that.

In Go each program answers by itself: a handler for /readyz, one for /metrics
by promhttp, expvar for the rest. They hang on the server that Shutdown closes
first of all, so that just during the stop nobody can ask any more.

Here it is a daemon with a port of its own. Daemons begin first and stop last:
it answers from before the others are ready until they have all stopped. It
knows what the group knows, so nothing has to be written for it. Its page shows
each actor with its status, and what happens. At a stop a bar grows for each,
and whoever holds it up is red.

What you want it to say of an actor, that actor says itself: by status, one
line of text, and by ready, which is whether it is fit for work.
"""

from __future__ import annotations

import trio

from trio_run import Cause, Group, StatusPage, run

TRY = """\
Open http://127.0.0.1:{port}/ in a browser, or in another terminal ask

    curl -i http://127.0.0.1:{port}/readyz
    curl -s http://127.0.0.1:{port}/status | {python} -m json.tool

and stop the program, which takes 5 seconds. Look at the page meanwhile, or ask
again (copy both lines at once):

    kill -TERM {pid}; sleep 2
    curl -s http://127.0.0.1:{port}/status | {python} -m json.tool

With the extra metrics it answers Prometheus, too, at /metrics."""


class Oven:
    name = "oven"
    status = "hot"

    def __init__(self) -> None:
        self.off = trio.Event()

    async def execute(self) -> None:
        await self.off.wait()
        for degrees in (250, 200, 150, 100, 50):
            self.status = f"cooling down: {degrees} degrees"
            await trio.sleep(1)
        self.status = "cold"

    def interrupt(self, _cause: Cause) -> None:
        self.off.set()


def main(port: int) -> int:
    group = Group(name="bakery", grace=10)
    group.add(StatusPage(port))
    group.add(Oven())
    return run(group)
