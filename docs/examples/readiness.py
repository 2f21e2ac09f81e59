import sys

from trio_run import Group, HTTPListener, run

group = Group(name="shop", grace=20, lame_duck=5)


async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    status, body = 200, b"Hello!\n"
    if scope["path"] == "/livez":
        body = b"alive\n"  # it answers: that is all
    elif scope["path"] == "/readyz":
        status, body = (200, b"ready\n") if group.ready else (503, b"not ready\n")
    await send({"type": "http.response.start", "status": status})
    await send({"type": "http.response.body", "body": body})


if __name__ == "__main__":
    group.add(HTTPListener(app, 8000))
    sys.exit(run(group))
