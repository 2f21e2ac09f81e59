"""The load balancer's side: readiness and the lame duck

A program that is to stop closes its listener. But its load balancer does not
know that yet, and sends it clients for some seconds more: they are
refused. Kubernetes takes a pod out of its lists at the same time as it sends
SIGTERM, and the news needs a while to reach everybody.

In Go, Shutdown closes the listeners first of all. So you write it by hand: at
the signal set a flag, answer 503 at /readyz while it is set, sleep as long as
the load balancer needs, and then call Shutdown.

Here this is lame_duck: after a signal the group goes on serving for so many
seconds, 10 in this lesson, and group.ready is false. Answers say `Connection:
close` meanwhile, so that clients come back to somebody else. The lame duck is
part of the grace, and another signal ends it early; only one more, while
stopping, cuts. A failure skips it: there is nothing left to serve with.
"""

from __future__ import annotations

from typing import Any

from trio_run import Group, HTTPListener, run

TRY = """\
In another terminal, ask whether it is ready, and stop it:

    curl -i http://127.0.0.1:{port}/readyz
    kill -TERM {pid}

It is not ready any more, but it still serves (copy both lines at once):

    curl -i http://127.0.0.1:{port}/readyz
    curl -i http://127.0.0.1:{port}/

Wait until the 10 seconds are over, or send the signal again:

    kill -TERM {pid}"""


def main(port: int) -> int:
    group = Group(name="shop", lame_duck=10, grace=30)

    async def app(scope: dict[str, Any], _receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        if scope["path"] != "/readyz":
            status, body = 200, b"Hello!\n"
        elif group.ready:
            status, body = 200, b"ready\n"
        else:
            status, body = 503, b"not ready: send your clients elsewhere\n"
        await send({"type": "http.response.start", "status": status})
        await send({"type": "http.response.body", "body": body})

    group.add(HTTPListener(app, port, host="127.0.0.1"))
    return run(group)
