"""The command lines of the programs under test, and where those of other people are."""

import os
import shutil
import sys
import textwrap

import pytest


def python(*arguments: str) -> list[str]:
    """This Python, with these arguments."""
    return [sys.executable, *arguments]


def script(source: str, *arguments: str) -> list[str]:
    """The source text of a program, with its arguments."""
    return python("-c", textwrap.dedent(source), *arguments)


def find(program: str) -> str:
    """Where a program is. It is the name of its Debian package too."""
    path = shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if path is None:
        why = f"this test drives the server with {program}: apt-get install {program}"
        pytest.fail(why) if "CI" in os.environ else pytest.skip(why)
    return path
