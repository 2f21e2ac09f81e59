"""``python -m trio_run new DIR``: a project of one's own, begun with a copy of this package.

Decides where it may be written, what it may be called, and what in the copy goes by that name. What
a project has beside the package, its tests and the files to deploy it, is in ``template/``: there
``.in`` ends every name, so that no tool takes the files for ours, ``dot_`` begins a hidden one, and
``NAME`` stands for the name. The numbers in them are those of the code.
"""

from __future__ import annotations

import argparse
import inspect
import keyword
import math
import re
import shlex
import sys
from importlib import metadata
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from trio_run import run

from . import limits
from .config import Config

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from importlib.resources.abc import Traversable

# In Kubernetes the nodes hear within a second or two that a pod is going; this is for those that
# are slow.
LAME_DUCK = 10.0
STORAGE, MAX_SIZE = "1Gi", 800.0  # the disk, and how many MB of it are for the database
SPARE = 5.0  # from the last moment that the program may still run to that of the SIGKILL

# Names of modules that the copy, or its tests, would import in vain if it had them itself.
_TAKEN = sys.stdlib_module_names | {
    *("h11", "httptools", "prometheus_client", "websockets", "wsproto"),
    *("trio", "trio_run", "trio_websocket"),
    *("attr", "attrs", "idna", "outcome", "sniffio", "sortedcontainers"),  # Trio's own
    *("iniconfig", "packaging", "pluggy", "pygments", "pytest", "pytest_trio", "tests"),
}
# An identifier that is also a name to PyPI, systemd and, its underscores aside, to Kubernetes.
_NAME = re.compile(r"[A-Za-z]([A-Za-z0-9_]{0,38}[A-Za-z0-9])?")


class Refused(Exception):
    """A sentence that says what can't be done, and what can."""


def main(arguments: Sequence[str]) -> int:
    """Write a project; the exit code is returned."""
    options = _parser().parse_args(arguments)
    directory: Path = options.directory
    try:
        name = _check_name(directory.resolve().name if options.name is None else options.name)
        project = {directory / path: text for path, text in _project(name)}
        _make(directory)
        _write(project)
    except Refused as refused:
        print(refused, file=sys.stderr)
        return 2
    print(f"{name} is in {directory}:")
    for path in sorted(project):
        print(f"  {path.relative_to(directory)}")
    print(
        "Go on with:",
        f"  cd {shlex.quote(str(directory))}",
        "  python3 -m venv .venv && .venv/bin/pip install -e '.[test]'",
        f"  .venv/bin/pytest && .venv/bin/{name}",
        sep="\n",
    )
    return 0


def _check_name(name: str) -> str:
    if not name.isidentifier() or keyword.iskeyword(name):
        problem = "is not a Python identifier" if not name.isidentifier() else "is a Python keyword"
    elif name.lower() in _TAKEN:
        problem = "is the name of a module that it would hide"
    elif not _NAME.fullmatch(name):
        problem = (
            "must be a letter, then up to 39 ASCII letters, digits and underscores, "
            "no underscore last"
        )
    else:
        return name
    raise Refused(
        f"the package can't be called {name!r}: it {problem}; try --name {_another(name)}"
    )


def _another(name: str) -> str:
    """A name like this one that will do."""
    name = re.sub(r"[^a-z0-9]+", "_", name.lower())[:30].strip("_")
    if not name:
        return "my_service"
    if not name[0].isalpha():
        name = f"app_{name}"
    return f"{name}_app" if keyword.iskeyword(name) or name in _TAKEN else name


def _make(directory: Path) -> None:
    """Make the directory, or see that it is empty."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        empty = not any(directory.iterdir())
    except FileExistsError as exc:
        raise Refused(f"{directory} is not a directory; choose another place") from exc
    except OSError as exc:
        raise Refused(f"cannot make {directory}: {exc.strerror}; choose another place") from exc
    if not empty:
        raise Refused(f"{directory} is not empty; choose a directory that is, or a new one")


def _write(project: Mapping[Path, str]) -> None:
    for path, text in project.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8", newline="\n")
        except OSError as exc:
            raise Refused(f"cannot write {path}: {exc.strerror}") from exc


def _project(name: str) -> Iterator[tuple[Path, str]]:
    """Every file of it: its path in there, and its text."""
    for source in files(__package__).iterdir():
        if source.name.endswith((".py", ".html")) and source.name != "new.py":
            yield Path(name, source.name), _renamed(source.read_text("utf-8"), name)
    values = _values(name)
    for parts, template in _templates(files(__package__) / "template"):
        path = Path(*(_path_part(part, name) for part in parts))
        yield path, Template(template.read_text("utf-8")).substitute(values)


def _renamed(text: str, name: str) -> str:
    """What goes by our name, by another one."""
    for ours, theirs in {
        ", meant to be copied as the model of a service": "",
        '"collector"': f'"{name}"',
        "COLLECTOR_": f"{name.upper()}_",
        "trio-run-data": f"{name}-data",
    }.items():
        text = text.replace(ours, theirs)
    # Here trio_run is one of our own packages, which imports keep apart; there it is not.
    return re.sub(
        r"^( *)import trio\n\n(?=\1from trio_run import)",
        r"\1import trio\n",
        text,
        flags=re.MULTILINE,
    )


def _values(name: str) -> dict[str, str]:
    """What stands in the templates as ``$name`` and the like."""
    config = Config()
    abort_after = inspect.signature(run).parameters["abort_after"].default
    longest = config.grace + abort_after
    numbers = {
        "grace": config.grace,
        "abort_after": abort_after,
        "stop_longest": longest,
        "stop_budget": math.ceil(longest + SPARE),
        "lame_duck": LAME_DUCK,
        "port": config.port,
        "udp_port": config.udp_port,
        "web_port": config.web_port,
        "tail_port": config.tail_port,
        "health_port": config.health_port,
        "max_size": MAX_SIZE,
        "base_memory": limits.BASE_MB,
        "client_memory": limits.CLIENT_MB,
        "most_clients": limits.MOST_AT_A_PORT,
    }
    return {
        "name": name,
        "dns_name": name.lower().replace("_", "-"),
        "env_prefix": f"{name.upper()}_",
        "storage": STORAGE,
        "version": metadata.version("trio-run"),
        **{key: f"{number:g}" for key, number in numbers.items()},
    }


def _path_part(part: str, name: str) -> str:
    """What a file or directory of the templates is called in a project."""
    if part.startswith("dot_"):
        part = part.replace("dot_", ".", 1)
    return part.removesuffix(".in").replace("NAME", name)


def _templates(
    directory: Traversable, above: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Traversable]]:
    for entry in directory.iterdir():
        parts = (*above, entry.name)
        if entry.is_dir():
            yield from _templates(entry, parts)
        else:
            yield parts, entry


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m trio_run new",
        description="Write a project of your own, begun with a copy of the log collector: its "
        "package, tests, and the "
        "files to deploy it with systemd, Docker and Kubernetes.",
    )
    parser.add_argument(
        "directory", type=Path, metavar="DIR", help="where to; it is made, or is empty"
    )
    parser.add_argument("--name", help="what the package is called (default: the last part of DIR)")
    return parser
