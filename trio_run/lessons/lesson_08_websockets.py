"""Connections that a server has handed away: WebSockets

A WebSocket begins as an HTTP request. Then the connection is no longer HTTP's,
and may stay open for days. Who closes it, when the program stops?

In Go the handler takes the connection over from net/http: it is hijacked.
Shutdown neither closes nor waits for those: when it returns, and main after
it, the connection breaks off. The library KMS, "Killing Me Softly", lets you
do it by hand: Wait() and Done() count what you are busy with,
ShutdownInitiated() is a channel that tells every handler that it is time, and
the handler closes its own connection.

Here the handler is still a task in the listener's nursery, so nothing has been
handed away. At a stop the listener refuses new ones, and closes the open ones
with 1001, "going away": browsers and other clients know what that means. Where
a handler is inside busy(), that comes when the block has ended. To a handler
it looks as if the client had closed the connection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from trio_run import WebSocketListener, busy, run

if TYPE_CHECKING:
    from trio_websocket import WebSocketRequest

TRY = """\
In another terminal, open a WebSocket, and type a word. (The client comes with
the package websockets: pip install websockets.)

    {python} -m websockets ws://127.0.0.1:{port}

The answer takes 5 seconds. In a third terminal have this ready, and stop the
program meanwhile:

    kill -TERM {pid}

You get your answer, and after it the Close."""


async def think(request: WebSocketRequest) -> None:
    """A handler for trio_websocket.serve_websocket: it works here unchanged."""
    websocket = await request.accept()
    print("thinker: somebody is here")
    try:
        while True:
            question = await websocket.get_message()
            with busy():  # right after the message: from here on it will be answered
                print("thinker: let me think")
                await trio.sleep(5)
                await websocket.send_message(f"{question!r}? I think so.")
    finally:
        print("thinker: the WebSocket is closed")


def main(port: int) -> int:
    return run(WebSocketListener(think, port, host="127.0.0.1"), name="thinker", grace=10)
