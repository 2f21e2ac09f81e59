"""``python -m trio_run``: which command is meant, and a page that names them all.

What a command does, and what its options are, is decided in its own file. Without one it is the
skeleton application.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_COMMANDS = {  # where each is, and how it is shown
    "new": ("_new._command", "new DIR", "write a project of your own: a service to grow"),
    "serve": ("_serve", "serve MODULE:APP", "serve an ASGI app, and lose no request at a stop"),
    "supervise": (
        "_supervise",
        "supervise ... -- COMMAND",
        "run workers of any program on the same sockets",
    ),
}
_PAGE = """\
usage: python -m trio_run COMMAND ...

{commands}
Each has a --help of its own.

  python -m trio_run.lessons  a course in short programs, one idea each

Without a command it is the skeleton, an application to look at and to copy:
"""


def _main(arguments: Sequence[str]) -> int:
    first = arguments[0] if arguments else ""
    if first in _COMMANDS:
        command = importlib.import_module(f".{_COMMANDS[first][0]}", __package__)
        code: int = command.main(arguments[1:])
        return code
    if first and not first.startswith("-"):
        print(  # noqa: T201
            f"there is no command {first!r}: there are {', '.join(_COMMANDS)}, and "
            "python -m trio_run --help says what they do",
            file=sys.stderr,
        )
        return 2
    if first in ("-h", "--help"):
        rows = "".join(f"  {shown:28}{about}\n" for _, shown, about in _COMMANDS.values())
        print(_PAGE.format(commands=rows))  # noqa: T201
    from .skeleton import app

    return app.main(arguments)


sys.exit(_main(sys.argv[1:]))
