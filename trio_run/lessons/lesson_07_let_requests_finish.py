"""Let requests finish: idle and busy, the grace, the second signal

A server that is to stop has connections of two kinds. Idle ones wait for their
client's next request: they can be closed. Busy ones are being answered.

In Go, Shutdown of net/http closes the listeners and the idle connections, and
polls until the busy ones have become idle, or its context ends; then it
returns that error, and the handlers go on. The book "Let's Go Further" adds
the rest: a goroutine that waits for the signal, a context that ends after so
many seconds, and a helper, background(fn), for what goes on when the client
has its answer. It counts the tasks in a WaitGroup, and recovers a panic:
net/http does so for a handler, but a panic in a goroutine of your own ends the
program. That WaitGroup is waited for without a limit.

Here the grace, 10 seconds, bounds all of it. What still runs then is
cancelled, and the report calls it cut; a second signal does that at once.
Background tasks are an actor. The listener needs it: so it stops after the
last request that may start a task. What fails in a handler or a task is
logged, and stops nobody.
"""

from __future__ import annotations

from typing import Any

import trio

from trio_run import BackgroundTasks, Group, HTTPListener, run

TRY = """\
In another terminal, see what a bug does:

    curl http://127.0.0.1:{port}/bug

An order takes 4 seconds; then a mail is sent, which takes 2 more. Order, and
stop the program meanwhile, all in one line:

    curl http://127.0.0.1:{port}/order & sleep 1; kill -TERM {pid}

The order is answered, the mail is sent, and the report says who was
interrupted when. Start the lesson again, and send the signal twice: now the
order is cut.

    curl http://127.0.0.1:{port}/order & sleep 1; kill -TERM {pid}; sleep 1; kill -TERM {pid}"""

mails = BackgroundTasks(name="mails")


async def send_mail() -> None:
    await trio.sleep(2)
    print("mails: the order is confirmed")


async def app(scope: dict[str, Any], _receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        return
    if scope["path"] == "/bug":
        raise ValueError("this page has a bug")
    print("shop: an order comes in")
    await trio.sleep(4)
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": b"Thank you.\n"})
    mails.start_soon(send_mail)  # no client waits for it, but a stop does


def main(port: int) -> int:
    group = Group(name="shop", grace=10)
    sending = group.add(mails)
    group.add(HTTPListener(app, port, host="127.0.0.1"), needs=[sending])
    return run(group)
