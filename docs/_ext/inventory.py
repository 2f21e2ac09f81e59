"""Sphinx's inventories of other projects, from lists that a person can read.

A build has no network to fetch them from. Each line is ``name domain:role page``, and the anchor
is the name.
"""

import zlib
from pathlib import Path


def compiled(source: Path, folder: Path) -> str:
    """Write the inventory as intersphinx reads it; return its path."""
    lines = []
    for line in source.read_text(encoding="utf-8").splitlines():
        name, role, page = line.split()
        lines.append(f"{name} {role} 1 {page}#$ -\n")
    head = (
        "# Sphinx inventory version 2\n"
        f"# Project: {source.stem}\n"
        "# Version: \n"
        "# The remainder of this file is compressed using zlib.\n"
    )
    target = folder / f"{source.stem}.inv"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(head.encode() + zlib.compress("".join(lines).encode()))
    return str(target)
