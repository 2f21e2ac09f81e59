"""The tutorial: a page for each lesson, written from its file when the guide is built.

What a lesson is made of is decided in trio_run/lessons/course.py.
"""

import re
import textwrap
from pathlib import Path

from sphinx.application import Sphinx

from trio_run.lessons.course import Lesson, course


def write_pages(app: Sphinx) -> None:
    folder = Path(app.srcdir, "tutorial")
    lessons = course()
    written = set()
    for lesson in lessons.values():
        page = folder / f"{lesson.file.stem}.rst"
        text = page_of(lesson, lessons.get(lesson.before))
        if not page.exists() or page.read_text(encoding="utf-8") != text:
            page.write_text(text, encoding="utf-8")
        written.add(page)
    for stale in set(folder.glob("lesson_*.rst")) - written:
        stale.unlink()


def page_of(lesson: Lesson, before: Lesson | None) -> str:
    heading = f"{lesson.number}. {_plain(lesson.title)}"
    install = f"pip install 'trio-run[{','.join(lesson.needs)}]'\n" if lesson.needs else ""
    command = f"{install}python -m trio_run.lessons {lesson.number}\n"
    program = lesson.program()
    options = ""
    if before is not None and (lines := _new_lines(program, before.program())):
        options = f"   :emphasize-lines: {','.join(map(str, lines))}\n"
    return "\n\n".join(
        [
            f"{heading}\n{'=' * len(heading)}",
            _prose(lesson.text),
            f".. code-block:: sh\n\n{textwrap.indent(command, '   ')}",
            _prose(lesson.what_to_try(lesson.port, "PID", "python"), "sh"),
            "The program\n-----------",
            f"What is new since lesson {before.number} is marked." if before else "",
            f".. code-block:: python\n{options}\n{textwrap.indent(program, '   ')}",
            "A line to change\n----------------",
            _prose(lesson.change, "python"),
            "Elsewhere\n---------",
            _prose(lesson.elsewhere),
        ]
    )


def _new_lines(program: str, before: str) -> list[int]:
    """The numbers of the lines that were not there before."""
    known = set(before.splitlines())
    lines = enumerate(program.splitlines(), 1)
    return [number for number, line in lines if line and line not in known]


def _prose(text: str, language: str = "text") -> str:
    """What is indented is code."""
    blocks = []
    for block in re.split(r"\n\n(?=\S)|(?<=\S)\n\n(?=    )", text):
        if block.startswith("    "):
            code = textwrap.indent(textwrap.dedent(block), "   ")
            blocks.append(f".. code-block:: {language}\n\n{code}")
        else:
            blocks.append(_plain(block))
    return "\n\n".join(blocks)


def _plain(text: str) -> str:
    """Text, none of which means anything to reStructuredText, but for code between backquotes."""
    pieces = re.split(r"`([^`]+)`", text)
    pieces[::2] = [re.sub(r"([\\*|_])", r"\\\1", piece) for piece in pieces[::2]]
    pieces[1::2] = [f"``{piece}``" for piece in pieces[1::2]]
    return "".join(pieces)


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("builder-inited", write_pages)
    return {"parallel_read_safe": True}
