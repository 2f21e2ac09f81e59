import sys

from trio_run import Group, HTTPListener, StatusPage, run


async def app(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"Hello!\n"})


if __name__ == "__main__":
    group = Group(name="shop", grace=20, lame_duck=5)
    group.add(HTTPListener(app, 8000))
    group.add(StatusPage(8081))
    sys.exit(run(group))
