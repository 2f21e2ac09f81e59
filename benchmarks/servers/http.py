"""HTTP: the app that all serve, and the servers without trio-run.

``python -m benchmarks.servers.http WHICH http``

The app answers ``ok``. Under ``/slow/CLIENT/NUMBER`` it takes 100 ms over a longer answer. When it
is shut down it prints as JSON which request of each client it began last: a client alone can't know
what was begun.
"""

import json
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from . import HOST, WORK

HALF = b"." * 5000  # of a slow answer


def make_app(sleep: Callable[[float], Awaitable[object]]) -> Callable[..., Awaitable[None]]:
    begun: dict[str, int] = {}

    async def lifespan(receive: Callable[[], Awaitable[Any]], send: Any) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                print(json.dumps(begun), flush=True)
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return

    async def answer(send: Any, *parts: bytes) -> None:
        length = str(sum(map(len, parts))).encode()
        headers = [(b"content-type", b"text/plain"), (b"content-length", length)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for part in parts[:-1]:
            await send({"type": "http.response.body", "body": part, "more_body": True})
            await sleep(WORK / 2)
        await send({"type": "http.response.body", "body": parts[-1]})

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await lifespan(receive, send)
        elif scope["path"] == "/":
            await answer(send, b"ok")
        else:
            _, speed, client, number = scope["path"].split("/")
            begun[client] = int(number)
            if speed == "slow":
                await sleep(WORK / 2)
                await answer(send, HALF, HALF)
            else:
                await answer(send, b"ok")

    return app


def listen() -> socket.socket:
    # asyncio turns Nagle's algorithm off where the socket says that it is TCP. One of protocol 0
    # would wait for 40 ms.
    listening = socket.socket(proto=socket.IPPROTO_TCP)
    listening.bind((HOST, 0))
    listening.listen(2048)
    print(listening.getsockname()[1], flush=True)
    return listening


def hypercorn_trio() -> None:
    import trio
    from hypercorn.config import Config
    from hypercorn.trio import serve

    async def sigterm() -> None:
        with trio.open_signal_receiver(signal.SIGTERM) as signals:
            async for _ in signals:
                return

    config = Config()
    config.bind = [f"fd://{listen().detach()}"]
    config.loglevel = "WARNING"

    async def main() -> None:
        await serve(make_app(trio.sleep), config, shutdown_trigger=sigterm)

    trio.run(main)


def hypercorn_asyncio() -> None:
    import asyncio

    from hypercorn.asyncio import serve
    from hypercorn.config import Config

    config = Config()
    config.bind = [f"fd://{listen().detach()}"]
    config.loglevel = "WARNING"

    async def main() -> None:
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        await serve(make_app(asyncio.sleep), config, shutdown_trigger=stop.wait)

    asyncio.run(main())


def uvicorn(loop: str) -> None:
    import asyncio

    from uvicorn import Config, Server

    if loop == "uvloop":
        import uvloop  # noqa: F401 - if it is missing, that shows before the first line
    app = make_app(asyncio.sleep)
    config = Config(
        app, http="h11", loop=loop, ws="none", log_level="warning", access_log=False, lifespan="on"
    )
    Server(config).run(sockets=[listen()])


SERVERS: dict[str, Callable[[], None]] = {
    "hypercorn-trio": hypercorn_trio,
    "hypercorn-asyncio": hypercorn_asyncio,
    "uvicorn": lambda: uvicorn("asyncio"),
    "uvicorn-uvloop": lambda: uvicorn("uvloop"),
}

if __name__ == "__main__":
    SERVERS[sys.argv[1]]()
