import asyncio
import sys
from contextlib import asynccontextmanager

import trio
import trio_asyncio
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpResponse
from django.urls import path
from trio_asyncio import aio_as_trio, trio_as_aio

from trio_run import Group, GroupFailed, HTTPListener, SignalReceiver

# The adapter.


def on_trio(app):
    """An ASGI app that needs asyncio, for Trio."""

    async def adapted(scope, receive, send):
        await aio_as_trio(app)(scope, trio_as_aio(receive), trio_as_aio(send))

    return adapted


@asynccontextmanager
async def open_loop():
    """An asyncio loop that takes an executor for each request, and survives a task that fails."""
    async with trio_asyncio.open_loop() as loop:
        loop.set_exception_handler(asyncio.BaseEventLoop.default_exception_handler)
        own = loop.run_in_executor

        def run_in_executor(executor, function, *args):
            if executor is None:
                return own(None, function, *args)
            return asyncio.wrap_future(executor.submit(function, *args), loop=loop)

        loop.run_in_executor = run_in_executor
        yield


# The site: yours is a project, and sets DJANGO_SETTINGS_MODULE instead.


def hello(request):
    return HttpResponse("Hello!\n")


urlpatterns = [path("", hello)]
settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="of no use here")


async def main():
    group = Group(name="site", grace=20)
    group.add(SignalReceiver())
    group.add(HTTPListener(on_trio(get_asgi_application()), 8000))
    async with open_loop():  # around the group: it ends when the last request has been answered
        return await group.run()


if __name__ == "__main__":
    try:
        print(trio.run(main))
    except GroupFailed as failed:
        sys.exit(str(failed.report))
