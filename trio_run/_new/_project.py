"""Project: which files a project has, and what is in them.

Two packages of ours are models: ``service`` and, for a program in full, ``skeleton``, the log
collector. A project has a copy of one, in which what goes by our name goes by its own, and of the
tests that are in there. What else it has is in the package's ``template/``: there ``.in`` ends
every name, so that no tool takes the files for ours, ``dot_`` begins a hidden one, ``NAME`` stands
for the name, and ``$`` for what is put in. The numbers in them are those of the code.
"""

from __future__ import annotations

import inspect
import math
import re
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from trio_run import run
from trio_run.service.config import Config as ServiceConfig
from trio_run.skeleton import limits
from trio_run.skeleton.config import Config as CollectorConfig

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from importlib.resources.abc import Traversable

    from ._origin import Origin

SPARE = 5.0  # seconds from the last moment that the program may still run to that of the SIGKILL
# In Kubernetes the nodes hear within a second or two that a pod is going; this is for those that
# are slow.
LAME_DUCK = 10.0
STORAGE, MAX_SIZE = "1Gi", 800.0  # the collector's disk, and how many MB are for the database


@dataclass(frozen=True)
class Model:
    """What a project begins as: a package of ours, and what in there is ours (``{name}`` and
    ``{NAME}`` stand for the project's).
    """

    package: str
    extras: str
    ours: Mapping[str, str]


SERVICE = Model(
    "trio_run.service",
    "http,metrics",
    {
        '"service"': '"{name}"',
        "SERVICE_": "{NAME}_",
        "trio_run.service": "{name}",
    },
)
COLLECTOR = Model(
    "trio_run.skeleton",
    "http,metrics,websocket",
    {
        ", meant to be copied as the model of a service": "",
        '"collector"': '"{name}"',
        "COLLECTOR_": "{NAME}_",
        "trio-run-data": "{name}-data",
    },
)


def project(name: str, model: Model, origin: Origin) -> dict[Path, str]:
    """Every file: its path in the project, and its text."""
    package = files(model.package)
    values = _values(name, model, origin)
    return {
        **{Path(name, file): text for file, text in _sources(package, name, model)},
        **{
            Path("tests", file): text
            for file, text in _sources(package / "tests", name, model)
            if file != "__init__.py"
        },
        **{
            Path(*(_path_part(part, name) for part in parts)): text
            for parts, text in _filled(package / "template", values)
        },
    }


def _sources(directory: Traversable, name: str, model: Model) -> Iterator[tuple[str, str]]:
    if directory.is_dir():
        for source in directory.iterdir():
            if source.name.endswith((".py", ".html")):
                yield source.name, _renamed(source.read_text("utf-8"), name, model)


def _renamed(text: str, name: str, model: Model) -> str:
    """What goes by our name, by another one."""
    for ours, theirs in model.ours.items():
        text = text.replace(ours, theirs.format(name=name, NAME=name.upper()))
    # Tests are beside the package there, and not in it.
    text = re.sub(r"^from \.\.(\w*) import", rf"from {name}.\1 import", text, flags=re.MULTILINE)
    text = text.replace(f"from {name}. import", f"from {name} import")
    # Here trio_run is one of our own packages, which imports keep apart; there it is not.
    return re.sub(
        r"^( *)((?:from|import) (?:httpx|pytest|starlette|trio)\b.*)\n\n(?=\1from trio_run)",
        r"\1\2\n",
        text,
        flags=re.MULTILINE,
    )


def _values(name: str, model: Model, origin: Origin) -> dict[str, str]:
    """What stands in the templates as ``$name`` and the like."""
    numbers = _times(ServiceConfig.grace) | {
        "port": ServiceConfig.port,
        "status_port": ServiceConfig.status_port,
    }
    if model is COLLECTOR:
        numbers = _times(CollectorConfig.grace) | {
            "port": CollectorConfig.port,
            "udp_port": CollectorConfig.udp_port,
            "web_port": CollectorConfig.web_port,
            "tail_port": CollectorConfig.tail_port,
            "health_port": CollectorConfig.health_port,
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
        **_installation(origin, model.extras),
        **{key: f"{number:g}" for key, number in numbers.items()},
    }


def _times(grace: float) -> dict[str, float]:
    """In seconds: how long a stop takes at most, and how long who stops it is to wait."""
    abort_after: float = inspect.signature(run).parameters["abort_after"].default
    return {
        "grace": grace,
        "abort_after": abort_after,
        "stop_longest": grace + abort_after,
        "stop_budget": math.ceil(grace + abort_after + SPARE),
        "lame_duck": LAME_DUCK,
    }


def _installation(origin: Origin, extras: str) -> dict[str, str]:
    """How the project, its image and others get trio-run."""
    values = {"requirement": origin.requirement(extras)}
    if origin.local is None:
        return values | dict.fromkeys(
            ("from_here", "find_links", "copy_wheels", "keep_wheels", "make_wheels"), ""
        )
    return values | {
        "from_here": f"{origin.local} ",
        "find_links": "--find-links wheels ",
        "copy_wheels": (
            "# trio-run comes from a wheel that is in the project: README.md says how it got "
            "there.\nCOPY wheels ./wheels\n"
        ),
        "keep_wheels": "!wheels/\n",
        "make_wheels": (
            "The trio-run that this began with is on this machine alone. So put a wheel of it into "
            "the\nproject first, and commit it: others, and images, get it from there.\n\n"
            f"```sh\n.venv/bin/pip wheel --no-deps -w wheels {origin.local.removeprefix('-e ')}\n"
            "```\n\n"
        ),
    }


def _path_part(part: str, name: str) -> str:
    """What a file or directory of the templates is called in a project."""
    if part.startswith("dot_"):
        part = part.replace("dot_", ".", 1)
    return part.removesuffix(".in").replace("NAME", name)


def _filled(
    directory: Traversable, values: Mapping[str, str], above: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], str]]:
    for entry in directory.iterdir():
        parts = (*above, entry.name)
        if entry.is_dir():
            yield from _filled(entry, values, parts)
        else:
            yield parts, Template(entry.read_text("utf-8")).substitute(values)
