"""WebSocket without trio-run: ``python -m benchmarks.servers.websocket WHICH websocket``.

WHICH is trio-websocket or websockets.
"""

import contextlib
import signal
import sys
from functools import partial
from typing import Any

from . import HOST


async def echo_messages(request: Any) -> None:
    """For trio-websocket, alone or under trio-run."""
    from trio_websocket import ConnectionClosed

    try:
        websocket = await request.accept()
        while True:
            await websocket.send_message(await websocket.get_message())
    except ConnectionClosed:
        pass


def trio_websocket() -> None:
    import trio
    from trio_websocket import serve_websocket

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            with trio.open_signal_receiver(signal.SIGTERM) as signals:
                server = await nursery.start(
                    partial(serve_websocket, echo_messages, HOST, 0, ssl_context=None)
                )
                print(server.port, flush=True)
                async for _ in signals:
                    nursery.cancel_scope.cancel()

    trio.run(main)


def websockets() -> None:
    import asyncio

    from websockets import ConnectionClosed
    from websockets.asyncio.server import ServerConnection, serve

    async def echo(connection: ServerConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for message in connection:
                await connection.send(message)

    async def main() -> None:
        async with serve(echo, HOST, 0) as server:
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, server.close)
            print(server.sockets[0].getsockname()[1], flush=True)
            await server.wait_closed()

    asyncio.run(main())


if __name__ == "__main__":
    {"trio-websocket": trio_websocket, "websockets": websockets}[sys.argv[1]]()
