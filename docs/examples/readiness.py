import sys

from trio_run import Group, HTTPListener, run

group = Group(name="shop", grace=20, lame_duck=5)


async def app(scope, receive, send):
    if scope["type"] == "http":
        await answer(send, 200, b"Hello!\n")


async def health(scope, receive, send):
    if scope["type"] != "http":
        return
    if scope["path"] == "/livez":
        await answer(send, 200, b"alive\n")  # it answers: that is all
    elif scope["path"] != "/readyz":
        await answer(send, 404, b"no such check\n")
    elif group.ready:
        await answer(send, 200, b"ready\n")
    else:
        await answer(send, 503, b"not ready\n")


async def answer(send, status, body):
    await send({"type": "http.response.start", "status": status})
    await send({"type": "http.response.body", "body": body})


if __name__ == "__main__":
    group.add(HTTPListener(app, 8000))
    group.add(HTTPListener(health, 8081, name="health"), daemon=True)
    sys.exit(run(group))
