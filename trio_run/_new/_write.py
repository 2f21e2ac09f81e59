"""Write: the files of a project on the disk. Either all of them are there in the end, or none, and
no directory that was made for them.
"""

from __future__ import annotations

from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

from ._refused import Refused

if TYPE_CHECKING:
    from collections.abc import Mapping


def write(directory: Path, project: Mapping[Path, str]) -> None:
    """Write the files of a project, by their paths in the directory. That is made, or is empty.

    Raises:
      Refused: if that can't be done.
    """
    made: list[Path] = []  # the last first
    try:
        _make(directory, made)
        for path, text in project.items():
            _write(directory / path, text, made)
    except BaseException:
        _undo(made)
        raise


def _make(directory: Path, made: list[Path]) -> None:
    """Make the directory, or see that it is empty."""
    try:
        _make_with_parents(directory, made)
        empty = not any(directory.iterdir())
    except FileExistsError as exc:
        raise Refused(f"{exc.filename} is not a directory; choose another place") from exc
    except (OSError, ValueError) as exc:
        raise Refused(f"cannot make {directory}: {_why(exc)}; choose another place") from exc
    if not empty:
        raise Refused(f"{directory} is not empty; choose a directory that is, or a new one")


def _write(path: Path, text: str, made: list[Path]) -> None:
    try:
        _make_with_parents(path.parent, made)
        with path.open("x", encoding="utf-8", newline="\n") as file:
            made.insert(0, path)
            file.write(text)
    except OSError as exc:
        raise Refused(f"cannot write {path}: {_why(exc)}; nothing is left of it") from exc


def _make_with_parents(directory: Path, made: list[Path]) -> None:
    above = [directory, *directory.parents]
    for each in reversed([*takewhile(lambda path: not path.is_dir(), above)]):
        each.mkdir()
        made.insert(0, each)


def _undo(made: list[Path]) -> None:
    for path in made:
        try:
            path.rmdir() if path.is_dir() else path.unlink()
        except OSError:  # what somebody else has put there meanwhile
            return


def _why(exc: Exception) -> str:
    return (isinstance(exc, OSError) and exc.strerror) or str(exc)
