"""``python -m trio_run.lessons``: list the lessons, or run one by its number.

Decides how a lesson is shown. What a lesson is made of is decided in course.py, and what it teaches
in its own file.
"""

from __future__ import annotations

import argparse
import difflib
import os
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from .course import PORTS, Lesson, course, load

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

RULE = "-" * 80
COMMAND = f"{sys.executable} -m trio_run.lessons"


class CannotTeach(Exception):
    """A sentence for the reader."""


def main(arguments: Sequence[str] | None = None) -> int:
    """List the lessons, show or copy or run one; returns the exit code."""
    options = _parser().parse_args(arguments)
    lessons = course()
    if options.lesson is None:
        _list(lessons)
        return 0
    try:
        lesson = _find(options.lesson, lessons)
        if options.diff:
            _show_what_is_new(lesson, lessons)
        elif options.copy:
            _copy(lesson)
        else:
            return _teach(lesson, options.port, len(lessons))
    except CannotTeach as exc:
        print(exc, file=sys.stderr)
        return 2
    return 0


def _list(lessons: dict[int, Lesson]) -> None:
    for lesson in lessons.values():
        needs = f"  (needs {', '.join(lesson.needs)})" if lesson.needs else ""
        print(f"{lesson.number:2}  {lesson.title}{needs}")
    print("\nHave a second terminal at hand: most of them run until you press Ctrl-C.")
    print("Run one by its number:\n    python -m trio_run.lessons 1")
    extras = sorted({extra for lesson in lessons.values() for extra in lesson.needs})
    print(f"For all of them:\n    pip install 'trio-run[{','.join(extras)}]'")


def _find(lesson: str, lessons: dict[int, Lesson]) -> Lesson:
    if lesson.endswith(".py"):
        try:
            return load(Path(lesson))
        except Exception as exc:
            raise CannotTeach(f"{lesson} can't be used: {_in_a_line(exc)}") from exc
    if not lesson.isdecimal() or int(lesson) not in lessons:
        raise CannotTeach(f"There is no lesson {lesson}: they are 1 to {len(lessons)}.")
    return lessons[int(lesson)]


def _show_what_is_new(lesson: Lesson, lessons: dict[int, Lesson]) -> None:
    before = lessons.get(lesson.before)
    old = before.program().splitlines() if before else []
    new = lesson.program().splitlines()
    for line in list(difflib.unified_diff(old, new, lineterm="", n=2))[2:]:
        print("" if line.startswith("@@") else line)


def _copy(lesson: Lesson) -> None:
    try:
        with Path(lesson.copy).open("xb") as copy:
            copy.write(lesson.file.read_bytes())
    except OSError as exc:
        raise CannotTeach(f"{lesson.copy} can't be written: {exc.strerror}.") from exc
    print(f"This is lesson {lesson.number}: {lesson.copy}")


def _teach(lesson: Lesson, port: int | None, last: int) -> int:
    if missing := lesson.missing():
        raise CannotTeach(
            f"Lesson {lesson.number} needs more than is installed here: "
            f"{sys.executable} -m pip install 'trio-run[{','.join(missing)}]'"
        )
    port = _free_ports(lesson.port if port is None else port)
    heading = f"Lesson {lesson.number}: {lesson.title}"
    print(f"{heading}\n{'=' * len(heading)}\n\n{lesson.text}\n")
    print(f"The program is {lesson.file}")
    if lesson.before:
        print(f"What is new in it since lesson {lesson.before}:\n")
        print(f"    {COMMAND} {lesson.number} --diff")
    print("\n" + lesson.what_to_try(port, os.getpid(), sys.executable))
    print(RULE, flush=True)
    code = _run(lesson, port)
    print(f"{RULE}\nThe exit code is {code}.\n")
    _ask_for_a_change(lesson, last)
    print(f"\n{lesson.elsewhere}", flush=True)
    return code


def _ask_for_a_change(lesson: Lesson, last: int) -> None:
    print("Now change a line in a copy of the program:\n")
    print(f"    {COMMAND} {lesson.number} --copy\n\n{lesson.change}\n")
    print(f"    {COMMAND} {lesson.copy}\n")
    if lesson.number < last:
        print(f"The answer is at the beginning of lesson {lesson.number + 1}.")


def _run(lesson: Lesson, port: int) -> int:
    """Run its main. What it raises is shown as a tree: a traceback would hide the lesson."""
    try:
        return lesson.main(port) or 0
    except (Exception, BaseExceptionGroup, KeyboardInterrupt) as exc:
        print("\nAn error came out of the program:\n")
        for line in _tree(exc):
            print("   ", line)
        return 130 if _is_ctrl_c(exc) else 1


def _tree(error: BaseException) -> Iterator[str]:
    yield _in_a_line(error)
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            for line in _tree(inner):
                yield f"  {line}"


def _in_a_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0].removesuffix(": ")


def _is_ctrl_c(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return any(map(_is_ctrl_c, error.exceptions))
    return isinstance(error, KeyboardInterrupt)


def _free_ports(wanted: int) -> int:
    """See that the lesson can listen there, before it is introduced. 0 finds free ports."""
    try:
        first = _free_port(wanted)
        for number in range(first + 1, first + PORTS):
            _free_port(number)
    except (OSError, OverflowError) as exc:
        reason = str(exc.args[-1]).rstrip(".")
        raise CannotTeach(
            f"The ports {wanted} to {wanted + PORTS - 1} can't be used: {reason}. "
            "Choose others with --port."
        ) from exc
    return first


def _free_port(wanted: int) -> int:
    with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        tcp.bind(("127.0.0.1", wanted))
        udp.bind(tcp.getsockname())
        port: int = tcp.getsockname()[1]
        return port


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m trio_run.lessons",
        description="A course: one small service that grows from lesson to lesson, "
        "and stops as it should.",
    )
    parser.add_argument(
        "lesson", nargs="?", help="its number, or a copy of one; without it they are listed"
    )
    parser.add_argument(
        "--port",
        type=int,
        help="the first of the four ports that it may use; 0 takes free ones "
        "(default: 7010 for lesson 1, 7020 for lesson 2, and so on)",
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--diff", action="store_true", help="show what is new in the program")
    what.add_argument("--copy", action="store_true", help="write a copy here, to be changed")
    return parser


if __name__ == "__main__":
    sys.exit(main())
