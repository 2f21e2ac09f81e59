"""The tutorial: a page for each lesson, written from its file when the guide is built.

A lesson is a docstring (its title and its text), ``TRY`` (what to type), and a program.
"""

import ast
import re
import textwrap
from pathlib import Path

from sphinx.application import Sphinx

from trio_run import lessons
from trio_run.lessons.__main__ import FIRST_PORT


def write_pages(app: Sphinx) -> None:
    folder = Path(app.srcdir, "tutorial")
    written = set()
    for number, file in enumerate(sorted(Path(lessons.__file__).parent.glob("lesson_*.py")), 1):
        page = folder / f"{file.stem}.rst"
        text = page_of(number, file.read_text(encoding="utf-8"))
        if not page.exists() or page.read_text(encoding="utf-8") != text:
            page.write_text(text, encoding="utf-8")
        written.add(page)
    for stale in set(folder.glob("lesson_*.rst")) - written:
        stale.unlink()


def page_of(number: int, source: str) -> str:
    docstring, typed, program = parts(source)
    title, _, text = docstring.partition("\n")
    heading = f"{number}. {_plain(title)}"
    return "\n\n".join(
        [
            f"{heading}\n{'=' * len(heading)}",
            _plain(text.strip()),
            f".. code-block:: sh\n\n   python -m trio_run.lessons {number}",
            _to_type(typed.format(port=FIRST_PORT + number - 1, pid="PID", python="python")),
            "The program\n-----------",
            f".. code-block:: python\n\n{textwrap.indent(program, '   ')}",
        ]
    )


def parts(source: str) -> tuple[str, str, str]:
    """The docstring, what TRY says, and the lines of the program without the two."""
    tree = ast.parse(source)
    docstring = ast.get_docstring(tree) or ""
    lines = source.splitlines()
    typed = ""
    for node in reversed(tree.body):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "TRY":
            typed = ast.literal_eval(node.value)
            del lines[node.lineno - 1 : node.end_lineno]
    del lines[: tree.body[0].end_lineno]
    program = "\n".join(line for line in lines if line != "from __future__ import annotations")
    return docstring, typed, re.sub(r"\n{4,}", "\n\n\n", program).strip("\n") + "\n"


def _to_type(text: str) -> str:
    """What is indented is typed in a shell."""
    blocks = []
    for block in re.split(r"\n\n(?=\S)|(?<=\S)\n\n(?=    )", text):
        if block.startswith("    "):
            blocks.append(".. code-block:: sh\n\n" + textwrap.indent(textwrap.dedent(block), "   "))
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
