"""The app of the workers scenario: each request takes 0.5 ms of processor time.

``/N`` is answered with N, as in rolling.
"""

import time
from typing import Any

WORK = 0.0005  # seconds


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        for _ in range(2):
            message = await receive()
            await send({"type": message["type"] + ".complete"})
        return
    while (await receive()).get("more_body"):
        pass
    until = time.thread_time() + WORK
    while time.thread_time() < until:
        pass
    body = scope["path"][1:].encode()
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


on_trio = on_asyncio = app
