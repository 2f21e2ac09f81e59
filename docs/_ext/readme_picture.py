"""``python docs/_ext/readme_picture.py``: draw the picture of a stop that the README shows.

It is what examples/a_stop.py does, and light or dark as its reader's system is.
"""

import runpy
from pathlib import Path

import trio
from trio.testing import MockClock

DOCS = Path(__file__).parent.parent
PICTURE = DOCS / "_static" / "stop.svg"


def picture() -> str:
    main = runpy.run_path(str(DOCS / "examples" / "a_stop.py"))["main"]
    report = trio.run(main, clock=MockClock(autojump_threshold=0))
    svg: str = report.svg(marks={10: "the grace of 10 s is over"})
    return svg + "\n"


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
