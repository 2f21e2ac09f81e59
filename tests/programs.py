"""The command lines of the programs under test."""

import sys
import textwrap


def python(*arguments: str) -> list[str]:
    """This Python, with these arguments."""
    return [sys.executable, *arguments]


def script(source: str, *arguments: str) -> list[str]:
    """The source text of a program, with its arguments."""
    return python("-c", textwrap.dedent(source), *arguments)
