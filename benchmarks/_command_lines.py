"""The command lines by which the users of each HTTP server start it, with some workers or alone."""

from __future__ import annotations

import importlib.util
import sys

from ._server import LeftOut

PEERS = ("trio-run", "uvicorn", "gunicorn", "hypercorn", "granian")
_NEEDS = {
    "trio-run": ("httptools", "websockets"),
    "uvicorn": ("uvicorn", "uvloop", "httptools"),
    "gunicorn": ("gunicorn", "uvicorn_worker", "uvloop", "httptools"),
    "hypercorn": ("hypercorn", "uvloop"),
    "granian": ("granian", "uvloop"),
}


def command_line(peer: str, module: str, port: int, workers: int | None) -> list[str]:
    """How it serves the app of a module. None is one process alone, where there is such a thing.

    The app is ``on_trio`` or ``on_asyncio``. Access logs are off.

    Raises:
      LeftOut: if something for it is not installed.
    """
    for needed in _NEEDS[peer]:
        if importlib.util.find_spec(needed) is None:
            raise LeftOut(f"{needed} is not installed")
    app = f"benchmarks.servers.{module}:{'on_trio' if peer == 'trio-run' else 'on_asyncio'}"
    at = ["--host", "127.0.0.1", "--port", str(port)]
    bind = ["--bind", f"127.0.0.1:{port}"]
    some = ["--workers", str(workers or 1)]
    command = {
        "trio-run": [
            *("trio_run", "serve", app, *at, *(some if workers else ())),
            *("--lame-duck", "1", "--no-access-log"),
        ],
        "uvicorn": [
            *("uvicorn", app, *at, *(some if workers else ())),
            *("--no-access-log", "--log-level", "warning"),
        ],
        "gunicorn": [
            *("gunicorn", app, *bind, *some, "--log-level", "warning", "--keep-alive", "75"),
            *("--worker-class", "uvicorn_worker.UvicornWorker"),
        ],
        "hypercorn": [
            *("hypercorn", app, *bind, *some),
            *("--log-level", "WARNING", "--worker-class", "uvloop"),
        ],
        "granian": [
            *("granian", app, *at, *some, "--interface", "asgi"),
            *("--no-ws", "--log-level", "warning"),
        ],
    }[peer]
    return [sys.executable, "-m", *command]
