"""``python -m trio_run new DIR``: what is asked for, and what is said."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ._names import check_name
from ._origin import find_origin
from ._project import COLLECTOR, SERVICE, project
from ._refused import Refused
from ._write import write

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str]) -> int:
    """Write a project; the exit code is returned."""
    options = _parser().parse_args(arguments)
    directory: Path = options.directory
    try:
        name = _last_part(directory) if options.name is None else options.name
        check_name(name)
        origin = find_origin()
        texts = project(name, COLLECTOR if options.collector else SERVICE, origin)
        write(directory, texts)
    except Refused as refused:
        print(refused, file=sys.stderr)
        return 2
    print(f"{name} is in {directory}:")
    for path in sorted(texts):
        print(f"  {path}")
    if origin.gone is not None:
        print(
            f"trio-run was installed from {origin.gone}, which is no longer there: now the project "
            f"wants {origin.requirement('...')} from an index"
        )
    print(
        "Go on with:",
        f"  cd {shlex.quote(str(directory))}",
        "  python3 -m venv .venv",
        f"  .venv/bin/pip install {_before(origin.local)}-e '.[test]'",
        f"  .venv/bin/pytest && .venv/bin/{name}",
        sep="\n",
    )
    return 0


def _last_part(directory: Path) -> str:
    """The name of a package in that directory, whose own name may well have a dash in it."""
    try:
        return directory.resolve().name.replace("-", "_")
    except (OSError, RuntimeError, ValueError) as exc:  # a loop of links, a NUL
        raise Refused(f"{str(directory)!r} is no path for a project: {exc}") from exc


def _before(words: str | None) -> str:
    return "" if words is None else f"{words} "


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m trio_run new",
        description="Write a project of your own: a small service to grow, with its tests and the "
        "files to deploy it with systemd, Docker and Kubernetes.",
    )
    parser.add_argument(
        "directory", type=Path, metavar="DIR", help="where to; it is made, or is empty"
    )
    parser.add_argument(
        "--name",
        help="what the package is called (default: the last part of DIR, with _ for each -)",
    )
    parser.add_argument(
        "--collector",
        action="store_true",
        help="begin with a copy of the log collector, which is a program in full, instead",
    )
    return parser
