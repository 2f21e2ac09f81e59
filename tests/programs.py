"""The command lines of the programs under test, and where those of other people are."""

import os
import shutil
import sys
import textwrap
from pathlib import Path

import pytest

_PACKAGES = {"systemd-analyze": "systemd"}


def python(*arguments: str) -> list[str]:
    """This Python, with these arguments."""
    return [sys.executable, *arguments]


def script(source: str, *arguments: str) -> list[str]:
    """The source text of a program, with its arguments."""
    return python("-c", textwrap.dedent(source), *arguments)


def find(program: str) -> str:
    """Where a program is: one of the extra ``test``, or of a Debian package of that name."""
    ours = Path(sys.executable).parent
    places = f"{ours}:{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    path = shutil.which(program, path=places)
    if path is None:
        why = f"this test asks {program}: apt-get install {_PACKAGES.get(program, program)}"
        pytest.fail(why) if "CI" in os.environ else pytest.skip(why)
    return path
