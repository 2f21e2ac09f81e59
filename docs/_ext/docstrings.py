"""The sections of our docstrings, as the field lists that Sphinx knows.

``Args:``, ``Returns:`` and ``Raises:`` stand alone on a line. Below them, indented, are the items.
(Napoleon would do, but it takes the words before a colon for a type.)
"""

import re

from sphinx.application import Sphinx

SECTIONS = {"Args:": "param", "Returns:": "returns", "Raises:": "raises"}
SEPARATOR = (
    ",\N{ZERO WIDTH SPACE}"  # where there is a space, Sphinx takes what is before it for a type
)


def convert(lines: list[str]) -> list[str]:
    converted: list[str] = []
    field = None
    for line in lines:
        if line in SECTIONS:
            field = SECTIONS[line]
            if field == "returns":
                converted.append(":returns:")
        elif not line.strip() or not field:
            converted.append(line)
        elif not line.startswith(" "):
            field = None
            converted += ["", line]
        elif field != "returns" and (item := re.fullmatch(r"  (\S[^:]*): (.*)", line)):
            names = item[1].replace(", ", SEPARATOR) if field == "param" else item[1]
            converted.append(f":{field} {names}: {item[2]}")
        else:
            converted.append(f"  {line}")
    return converted


def process(
    _app: Sphinx, _what: str, _name: str, _obj: object, _options: object, lines: list[str]
) -> None:
    lines[:] = convert(lines)


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", process)
    return {"parallel_read_safe": True}
