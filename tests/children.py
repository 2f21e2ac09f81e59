"""Programs that are children, and what can be known of them from outside."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import trio

from . import TIMEOUT

SLEEP = ["sleep", "1000"]

_NOTIFY = """
import os, signal, socket, sys, time
def say(text):
    address = os.environ["NOTIFY_SOCKET"].replace("@", "\\0", 1)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sending:
        sending.sendto(text.encode(), address)
"""


def shell(source: str) -> list[str]:
    return ["sh", "-c", source]


def quick(source: str) -> list[str]:
    """A Python program that needs the standard library alone."""
    return [sys.executable, "-I", "-S", "-c", textwrap.dedent(source)]


def notifying(source: str) -> list[str]:
    """The same, which can say() something to whoever has started it."""
    return quick(_NOTIFY + textwrap.dedent(source))


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def exists(pid: int | None) -> bool:
    """Is there one, even if it has ended and is not reaped?"""
    return Path(f"/proc/{pid}").exists()


def state_of(pid: int | None) -> str:
    """As in /proc: "R" runs, "S" sleeps, "T" is paused; "" where there is none."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return "" if state in "ZX" else state  # whoever is to reap it has not come to it yet


async def until(is_so: Callable[[], object]) -> None:
    with trio.fail_after(TIMEOUT):
        while not is_so():
            await trio.sleep(0.01)
