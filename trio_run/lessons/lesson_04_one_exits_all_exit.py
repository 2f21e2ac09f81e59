"""One exits, all exit: a web server and a signal

A program has an HTTP server, a task that waits for a signal, and one that
waits until somebody asks for /quit. Whichever ends first, all should end.

In Go this is an errgroup. Its context is cancelled when the first function
returns an error: so the one that waits for the signal returns an error, even
though all is well. And a server knows nothing of that context: one more
goroutine waits for it to end, and calls Shutdown.

In Trio a nursery does this for errors. The Group of trio_run does it for every
exit, and it interrupts before it cancels. What it runs are called actors:
async functions, and objects with an async execute(). Those that come with
trio_run know what to do when they are interrupted: the listener stops
listening, and finishes the requests that it has. When all have stopped, run()
returns a report. It says why the group stopped, how long that took, and for
each actor when it was ready, when it was interrupted, and what became of it.
"""

from __future__ import annotations

import logging
from typing import Any

import trio

from trio_run import Group, HTTPListener, SignalReceiver

TRY = """\
In another terminal, ask it for something, then stop it:

    curl http://127.0.0.1:{port}/
    kill -TERM {pid}

Start the lesson again, and stop it the other way:

    curl http://127.0.0.1:{port}/quit"""

somebody_asked = trio.Event()


async def app(scope: dict[str, Any], _receive: Any, send: Any) -> None:
    """A web application by hand (ASGI is the protocol). Starlette or FastAPI make one too."""
    if scope["type"] != "http":
        return  # it is called for the server's start and stop too, and does not care
    if scope["path"] == "/quit":
        somebody_asked.set()
        body = b"Good bye!\n"
    else:
        body = b"Hello!\n"
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": body})


async def quitter() -> None:
    await somebody_asked.wait()
    print("quitter: somebody asked for /quit, so I return")


async def serve(port: int) -> int:
    group = Group(name="program", grace=10)
    group.add(SignalReceiver())  # SIGINT, which is Ctrl-C, and SIGTERM
    group.add(HTTPListener(app, port, host="127.0.0.1"))
    group.add(quitter)
    report = await group.run()
    print(report)
    return report.exit_code


def main(port: int) -> int:
    logging.basicConfig(level=logging.INFO, format="%(message)s")  # trio_run says what happens
    return trio.run(serve, port)
