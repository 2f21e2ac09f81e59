"""Origin: where this trio-run came from, and so how a project that it writes gets the same one.

A project that needs ``trio-run>=0.1`` installs wherever an index has that. One that was written
from a checkout, or from a wheel, has to be given that; and what is on this machine alone is not
there for ``docker build``, nor for others: they get a wheel in the project. What an installer has
noted of where it took a package from is its direct_url.json (PEP 610).
"""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import trio_run

from ._refused import Refused


@dataclass(frozen=True)
class Origin:
    """Where it came from.

    ``version`` is what it is. ``url`` is where anybody can get it, if that is no index. ``local``
    are the words by which pip gets it on this machine, and only there. ``gone`` is a path that it
    came from, and that is no longer there.
    """

    version: str
    url: str | None = None
    local: str | None = None
    gone: str | None = None

    def requirement(self, extras: str) -> str:
        """What the project says that it needs."""
        if self.url is not None:
            return f"trio-run[{extras}] @ {self.url}"
        if self.local is not None:  # and no newer one that somebody else has put on an index
            return f"trio-run[{extras}]=={self.version}"
        return f"trio-run[{extras}]>={self.version}"


def find_origin() -> Origin:
    """Where this trio-run came from.

    Raises:
      Refused: if it is not installed, so that nothing tells its version.
    """
    package = Path(trio_run.__file__).resolve().parent
    try:
        # Several: a tree may have a trio_run.egg-info, which is found first where that is run.
        installed = list(metadata.distributions(name="trio-run"))
        version = installed[0].version
    except IndexError:
        raise Refused(
            f"the trio-run in {package} is not installed, so a project can't say which it needs; "
            f"install it: pip install -e {shlex.quote(str(package.parent))}"
        ) from None
    if (package.parent / "pyproject.toml").exists():  # a checkout, and this is it
        return Origin(version, local=f"-e {shlex.quote(str(package.parent))}")
    for each in installed:
        if Path(str(each.locate_file("trio_run"))).resolve() == package:
            return _of(each.version, each.read_text("direct_url.json"))
    return Origin(version)


def _of(version: str, direct_url: str | None) -> Origin:
    """What a direct_url.json says; what can't be understood is an index."""
    try:
        noted: Any = json.loads(direct_url or "{}")
        url = noted["url"]
        place = urlsplit(url)
        vcs = noted.get("vcs_info")
        if vcs:
            url = f"{vcs['vcs']}+{url}@{vcs['commit_id']}"
        if "subdirectory" in noted:
            url += f"#subdirectory={noted['subdirectory']}"
    except (AttributeError, KeyError, TypeError, ValueError):
        return Origin(version)
    if not re.fullmatch(r"[!#-\[\]-~]+", url):  # nothing that would have to be escaped in TOML
        return Origin(version)
    if place.scheme != "file":
        return Origin(version, url=url)
    path = url2pathname(place.path)
    if not Path(path).exists():
        return Origin(version, gone=path)
    # pip 23.2 takes "trio-run @ git+file:" for a path.
    return Origin(version, local=shlex.quote(url if vcs else f"trio-run @ {url}"))
