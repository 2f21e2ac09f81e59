"""Which ASGI app MODULE:APP names, and at which path it is mounted."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ._arguments import Refused

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    App = Callable[..., Awaitable[None]]

# Whose frames lead to the app's: ours, and those of the import.
_LOADING = (str(Path(__file__).parent) + os.sep, importlib.__file__, "<frozen importlib")


def load_app(where: str, directory: str, *, factory: bool) -> App:
    """The app that MODULE:APP names, looked for in this directory first.

    Raises:
      Refused: if there is none. What the module itself raises goes on its way.
    """
    name, colon, path = where.partition(":")
    if not (name and colon and path):
        raise Refused(f"{where!r} names no app: write MODULE:APP, as in shop.web:app")
    try:
        here = str(Path(directory).resolve())
    except OSError as exc:
        raise Refused(f"there is no directory {directory!r}: {exc.strerror}") from None
    sys.path.insert(0, here)
    try:
        found = importlib.import_module(name)
    except ModuleNotFoundError as exc:
        if exc.name is None or not f"{name}.".startswith(f"{exc.name}."):
            raise  # it is another that the module looks for
        raise Refused(
            f"there is no module {exc.name!r} in {here}: --app-dir says where to look"
        ) from None
    app: Any = found
    for part in path.split("."):
        if not hasattr(app, part):
            raise Refused(f"the module {name!r} has no {path!r}")
        app = getattr(app, part)
    if factory:
        if not callable(app):
            raise Refused(f"{where} is no factory: it can't be called")
        app = app()
    if not callable(app):
        raise Refused(f"{where} is no ASGI app: it can't be called")
    loaded: App = app
    return loaded


def without_our_frames(error: Exception) -> Exception:
    """What the app raised as it was loaded, its traceback from the app's own code on."""
    left = error.__traceback__
    while left is not None and left.tb_frame.f_code.co_filename.startswith(_LOADING):
        left = left.tb_next
    return error.with_traceback(left)


def mount(app: App, root: str) -> App:
    """The app as it is known behind a proxy that takes this path off what it passes on.

    As Uvicorn has it: ``root_path`` says so, and ``path`` is the whole.

    Raises:
      Refused: if it is no path that begins with a slash and ends without one.
    """
    if not root.startswith("/") or root.endswith("/"):
        raise Refused(f"--root-path {root!r} must begin with a slash and end without one: /shop")
    raw_root = quote(root).encode("ascii")

    async def mounted(scope: MutableMapping[str, Any], receive: object, send: object) -> None:
        if scope["type"] != "lifespan":
            path, raw_path = root + scope["path"], raw_root + scope["raw_path"]
            scope = {**scope, "root_path": root, "path": path, "raw_path": raw_path}
        await app(scope, receive, send)

    return mounted
