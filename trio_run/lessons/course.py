"""What a lesson is made of, and which there are.

A lesson is a file. Its docstring is its title and its text, ``NEEDS`` the extras that it takes,
``TRY`` what to do while it runs, ``CHANGE`` a line to change afterwards, and ``ELSEWHERE`` how it
is done elsewhere. ``BEFORE`` is the lesson that it has grown from, if that is not the one before.
``main(port)`` runs it and returns the exit code. It may have the ports up to ``port + PORTS - 1``.
How it is shown is for others to decide.
"""

from __future__ import annotations

import ast
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

PORTS = 4  # for each lesson, from 7010 on for the first, from 7020 on for the second
_MODULES = {"http": "httptools", "metrics": "prometheus_client", "websocket": "trio_websocket"}


@dataclass(frozen=True)
class Lesson:
    number: int
    title: str
    text: str
    needs: tuple[str, ...]  # extras
    before: int  # the lesson that it has grown from; 0 is none
    to_try: str  # with {port}, {port1} and so on, {pid} and {python} in it
    change: str
    elsewhere: str
    file: Path
    main: Callable[[int], int | None]

    @property
    def port(self) -> int:
        return 7000 + 10 * self.number

    @property
    def copy(self) -> str:
        """How a copy of it is called."""
        return f"lesson_{self.number:02}.py"

    def what_to_try(self, port: int, pid: object, python: str) -> str:
        """``to_try`` with these in it."""
        ports = {f"port{number}": port + number for number in range(1, PORTS)}
        return self.to_try.format(port=port, pid=pid, python=python, **ports)

    def missing(self) -> list[str]:
        """The extras that it needs and that are not installed."""
        return [extra for extra in self.needs if not importlib.util.find_spec(_MODULES[extra])]

    def program(self) -> str:
        """What is in its file, without all that is said to the reader."""
        source = self.file.read_text(encoding="utf-8")
        lines = source.splitlines()
        tree = ast.parse(source)
        for node in reversed(tree.body):
            if node is tree.body[0] or (
                isinstance(node, ast.Assign)
                and ast.unparse(node.targets[0])
                in {"NEEDS", "BEFORE", "TRY", "CHANGE", "ELSEWHERE"}
            ):
                del lines[node.lineno - 1 : node.end_lineno]
        text = "\n".join(line for line in lines if not line.startswith("from __future__"))
        return re.sub(r"\n{4,}", "\n\n\n", text).strip("\n") + "\n"


def load(file: Path) -> Lesson:
    """Read a lesson from its file.

    Raises:
      Exception: whatever its code raises.
    """
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return _lesson(module, file)


def _lesson(module: ModuleType, file: Path) -> Lesson:
    number = int(file.stem.split("_")[1])
    title, _, text = (module.__doc__ or "").partition("\n")
    return Lesson(
        number=number,
        title=title,
        text=text.strip(),
        needs=module.NEEDS,
        before=getattr(module, "BEFORE", number - 1),
        to_try=module.TRY,
        change=module.CHANGE,
        elsewhere=module.ELSEWHERE,
        file=file,
        main=module.main,
    )


def course() -> dict[int, Lesson]:
    """All lessons, by their numbers."""
    names = sorted(file.stem for file in Path(__file__).parent.glob("lesson_*.py"))
    modules = [importlib.import_module(f"trio_run.lessons.{name}") for name in names]
    lessons = [_lesson(module, Path(str(module.__file__))) for module in modules]
    return {lesson.number: lesson for lesson in lessons}
