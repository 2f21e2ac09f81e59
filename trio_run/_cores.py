"""Cores: how many processors this process may use."""

from __future__ import annotations

import math
import os
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_PROC = Path("/proc/self/cgroup")
_CGROUPS = Path("/sys/fs/cgroup")


def cores() -> int:
    """Those of its affinity, and no more than the quota of its cgroup pays for, rounded up."""
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:  # pragma: no cover - tested on Linux
        count = os.cpu_count() or 1
    return max(1, min([count, *map(math.ceil, _quotas())]))


def _quotas() -> Iterator[float]:
    """How many processors each cgroup around this process may use, where that is limited."""
    try:
        lines = _PROC.read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:
            for folder in _around(_CGROUPS, path):
                yield from _quota(folder / "cpu.max", folder / "cpu.max")
        elif "cpu" in controllers.split(","):
            for folder in _around(_CGROUPS / controllers, path):
                yield from _quota(folder / "cpu.cfs_quota_us", folder / "cpu.cfs_period_us")


def _around(root: Path, path: str) -> list[Path]:
    """The folder of a cgroup, and those that it is in."""
    inside = PurePosixPath(path.lstrip("/"))
    # In a container the root may be the cgroup itself, whatever its path is outside.
    return [root / inside, *(root / each for each in inside.parents)]


def _quota(quota: Path, period: Path) -> Iterator[float]:
    """Version 2 has both in one file, version 1 in two."""
    try:
        allowed, every = int(quota.read_text().split()[0]), int(period.read_text().split()[-1])
    except (OSError, ValueError, IndexError):  # there is none, or its quota is "max"
        return
    if allowed > 0 and every > 0:
        yield allowed / every
