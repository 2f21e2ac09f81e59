"""Names: what a project may be called.

Its package, its command, its unit and its image all go by that one name. So it has to suit Python,
PyPI, systemd, Docker and Kubernetes, and must not take the place of anything that the project uses.
"""

from __future__ import annotations

import keyword
import re
import sys

from ._refused import Refused

# Names of modules that the project, its tests or their tools would import in vain.
_MODULES = sys.stdlib_module_names | {
    *("trio", "trio_run", "trio_websocket", "test", "idlelib"),
    *("attr", "attrs", "idna", "outcome", "sniffio", "sortedcontainers", "typing_extensions"),
    *("anyio", "certifi", "h11", "httpcore", "httptools", "httpx", "prometheus_client"),
    *("starlette", "websockets", "wsproto"),
    *("iniconfig", "packaging", "pluggy", "pygments", "pytest", "pytest_trio", "py", "ruff"),
    *("exceptiongroup", "pip", "pkg_resources", "setuptools", "wheel"),
}
# What is in the way where the project's own command, package, user or image has its place.
_COMMANDS = {"activate", "pygmentize", "python"}
_PLACES = {"build", "conftest", "dist", "docker", "lib", "template", "tests", "venv", "wheels"}
_USERS = {"bin", "daemon", "mail", "nobody", "root", "sys"}

# An identifier that is also a name to PyPI, systemd and, its underscores aside, to Kubernetes.
_NAME = re.compile(r"[A-Za-z]([A-Za-z0-9_]{0,38}[A-Za-z0-9])?")


def check_name(name: str) -> None:
    """Is that a name for a project?

    Raises:
      Refused: if it is none, with one that is.
    """
    problem = _problem(name)
    if problem:
        raise Refused(
            f"the package can't be called {name!r}: it {problem}; try --name {_another(name)}"
        )


def _problem(name: str) -> str | None:
    lower = name.lower()
    if not name.isidentifier():
        return "is not a Python identifier"
    if keyword.iskeyword(name):
        return "is a Python keyword"
    if lower in _MODULES:
        return "is the name of a module that it would hide"
    if lower in _COMMANDS or re.fullmatch(r"(python|pip)[0-9_]*", lower):
        return "is the name of a command that it would replace"
    if lower in _PLACES:
        return "is the name of a place that the project needs for something else"
    if lower in _USERS:
        return "is the name of a user of the system, and systemd would run it as that one"
    if re.match(r"test_|.*_test$", lower):
        return "looks like a file of tests, and pytest would take it for one"
    if not _NAME.fullmatch(name) or "__" in name:
        return (
            "must be a letter, then up to 39 ASCII letters, digits and single underscores, no "
            "underscore last"
        )
    return None


def _another(name: str) -> str:
    """A name like this one that will do."""
    name = re.sub(r"[^a-z0-9]+", "_", name.lower())[:30].strip("_")
    name = re.sub(r"^test_|_test$", "", name)
    for another in (name, f"app_{name}", f"{name}_app"):
        if _problem(another) is None:
            return another
    return "my_service"
