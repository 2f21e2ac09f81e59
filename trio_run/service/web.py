"""web: the door. What it answers over HTTP, and where it listens.

To add a route, write a function and add it to the list. To replace Starlette, give HTTPListener any
other ASGI app that runs on Trio. To delete the door, delete this file, its test and what names
it in app.py.
"""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from trio_run import HTTPListener, inherited_sockets

from .config import Config
from .jobs import LONGEST, Full, Jobs
from .settings import Settings

MOST_BYTES = 10_000  # of a request's body
MOST_CLIENTS = 1_000  # at once; more wait their turn


def make_app(settings: Settings, jobs: Jobs) -> Starlette:
    """The routes."""

    async def show(_: Request) -> JSONResponse:
        greeting = settings.now.greeting
        return JSONResponse({"greeting": greeting, "waiting": jobs.waiting, "done": jobs.done})

    async def take(request: Request) -> JSONResponse:
        body = await request.body()
        try:
            number = jobs.add(float(body))
        except ValueError:
            what = f"a job is a number of seconds, from 0 to {LONGEST}"
            return JSONResponse({"error": what}, 400)
        except Full:
            return JSONResponse({"error": "too many jobs wait"}, 503, {"Retry-After": "10"})
        return JSONResponse({"job": number}, 202)

    routes = [
        Route("/", show),
        Route("/jobs", take, methods=["POST"], max_body_size=MOST_BYTES),
    ]
    return Starlette(routes=routes)


def make_door(app: Starlette, config: Config) -> HTTPListener:
    """Listen on the sockets that we are handed, by systemd for example, or at our own port."""
    sockets = [socket for named in inherited_sockets().values() for socket in named]
    if sockets:
        return HTTPListener(app, sockets=sockets, max_connections=MOST_CLIENTS, name="web")
    return HTTPListener(
        app, config.port, host=config.host, max_connections=MOST_CLIENTS, name="web"
    )
