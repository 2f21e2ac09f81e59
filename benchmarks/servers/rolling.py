"""The app of the rolling scenarios, which enters each request in a ledger.

``/N`` is the request of that number; it is answered with its number. Two of thirty-two take some
time. The ledger is a file, named by the variable LEDGER, that has two bytes for each request: how
often it was begun, and how often it was done. All servers map it, so that it knows what was begun
in one that is gone.
"""

import asyncio
import mmap
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import trio

SLOW, OF = 2, 32
WORK = 0.02  # seconds, of a slow one


def make_app(sleep: Callable[[float], Awaitable[object]]) -> Callable[..., Awaitable[None]]:
    with Path(os.environ["LEDGER"]).open("r+b") as file:
        ledger = mmap.mmap(file.fileno(), 0)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            for _ in range(2):
                message = await receive()
                await send({"type": message["type"] + ".complete"})
            return
        text = scope["path"][1:]
        number = int(text)
        ledger[2 * number] += 1
        while (await receive()).get("more_body"):
            pass
        if number % OF < SLOW:
            await sleep(WORK)
        body = text.encode()
        headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})
        ledger[2 * number + 1] += 1

    return app


on_trio = make_app(trio.sleep)
on_asyncio = make_app(asyncio.sleep)
