import sys

from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from trio_run import HTTPListener, run


async def hello(request):
    return PlainTextResponse("Hello!\n")


app = Starlette(routes=[Route("/", hello)])

if __name__ == "__main__":
    sys.exit(run(HTTPListener(app, 8000), grace=20))
