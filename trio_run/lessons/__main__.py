"""``python -m trio_run.lessons``: list the lessons, or run one by its number.

Decides how a lesson is shown. What it teaches is in its own file: the docstring is its title and
its text, ``TRY`` is what to type meanwhile, and ``main(port)`` runs it and returns the exit code.
"""

from __future__ import annotations

import argparse
import importlib
import os
import pkgutil
import socket
import sys
import traceback
from typing import TYPE_CHECKING

from trio_run import lessons

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import ModuleType

FIRST_PORT = 7001  # of lesson 1; lesson 2 has the next one, and so on


def main(arguments: Sequence[str] | None = None) -> int:
    """List the lessons or run one; returns the exit code."""
    options = _parser().parse_args(arguments)
    course = _course()
    if options.number is None:
        for number, lesson in course.items():
            print(f"{number:2}  {_title(lesson)}")
        print("\nRun one by its number:\n    python -m trio_run.lessons 1")
        return 0
    if options.number not in course:
        print(f"There is no lesson {options.number}: they are 1 to {len(course)}.", file=sys.stderr)
        return 2
    wanted = FIRST_PORT + options.number - 1 if options.port is None else options.port
    try:
        port = _free_port(wanted)
    except (OSError, OverflowError) as exc:
        reason = str(exc.args[-1]).rstrip(".")
        print(
            f"Port {wanted} can't be used: {reason}. Choose another with --port.", file=sys.stderr
        )
        return 2
    lesson = course[options.number]
    _introduce(options.number, lesson, port)
    return _run(lesson, port)


def _course() -> dict[int, ModuleType]:
    names = (module.name for module in pkgutil.iter_modules(lessons.__path__, "trio_run.lessons."))
    found = (importlib.import_module(name) for name in names if ".lesson_" in name)
    return {int(lesson.__name__.split("_")[2]): lesson for lesson in found}


def _title(lesson: ModuleType) -> str:
    return (lesson.__doc__ or "").partition("\n")[0]


def _introduce(number: int, lesson: ModuleType, port: int) -> None:
    title = f"Lesson {number}: {_title(lesson)}"
    text = (lesson.__doc__ or "").partition("\n")[2].strip()
    print(f"{title}\n{'=' * len(title)}\n\n{text}\n")
    print(f"The program is {lesson.__file__}\n")
    print(lesson.TRY.format(port=port, pid=os.getpid(), python=sys.executable))
    print("-" * 80)


def _run(lesson: ModuleType, port: int) -> int:
    """Run its main. What it raises is shown in a line: the tracebacks would hide the lesson."""
    code = 0
    try:
        code = lesson.main(port) or 0
    except* KeyboardInterrupt:
        print("KeyboardInterrupt came out of the program")
        code = 130
    except* Exception as failed:
        for error in _leaves(failed):
            said = "".join(traceback.format_exception_only(error)).rstrip()
            print("An error came out of the program:", said)
        code = 1
    return code


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def _free_port(wanted: int) -> int:
    """See that the lesson can listen there, before it is introduced. 0 finds a free port."""
    with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        tcp.bind(("127.0.0.1", wanted))
        udp.bind(tcp.getsockname())
        port: int = tcp.getsockname()[1]
        return port


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m trio_run.lessons",
        description="A course in fourteen short programs: "
        "how a Trio program runs many things, and how it stops.",
    )
    parser.add_argument(
        "number", nargs="?", type=int, help="the lesson to run; without it they are listed"
    )
    parser.add_argument(
        "--port",
        type=int,
        help="where it listens; 0 takes a free port (default: 7001 for lesson 1, and so on)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
