"""Output: what a child writes, logged line by line.

What it is started for, and how long it is read, is decided by who has started the child.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections import deque

import trio

process_logger = logging.getLogger("trio_run.process")

_AT_ONCE = 8192  # bytes; then others get their turn
_LONGEST = 16384  # bytes of a line; what is longer is logged in parts
_KEPT = 10  # lines
_MOST_KEPT = 1000  # characters of each
_PIPE = 65536  # bytes that are in a pipe at the most


class Output:
    """A pipe that a child writes to.

    Raises:
      OSError: if there can't be one.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._reading, self.writing = os.pipe()
        os.set_blocking(self._reading, False)
        self._rest = b""  # of a line
        self._parts = 0  # of that line, which have been logged
        self._is_over = False
        self.last: deque[str] = deque(maxlen=_KEPT)

    def started(self) -> None:
        """The child has its end of it."""
        os.close(self.writing)
        self.writing = -1

    async def log(self) -> None:
        """Log what comes, until the end."""
        while not self._is_over:
            await trio.lowlevel.wait_readable(self._reading)
            self._take()

    def close(self) -> None:
        """Log what is there already, and no more: who still holds the other end may never end."""
        for _ in range(_PIPE // _AT_ONCE):
            if not self._take():
                break
        if self._rest:
            self._write(self._rest)
        os.close(self._reading)
        if self.writing != -1:
            os.close(self.writing)

    def _take(self) -> bool:
        """Log some of what is there. Returns False if there is nothing."""
        try:
            data = os.read(self._reading, _AT_ONCE)
        except BlockingIOError:
            return False
        *lines, rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._write(self._log_parts(line))
        self._rest = self._log_parts(rest)
        self._is_over = not data
        return bool(data)

    def _log_parts(self, line: bytes) -> bytes:
        """Log the parts of a line that is too long. Returns what is left of it."""
        while len(line) > _LONGEST:
            end = _LONGEST
            while line[end] & 0xC0 == 0x80 and end > _LONGEST - 3:  # within a character of UTF-8
                end -= 1
            self._parts += 1
            self._put(f"[part {self._parts}] ", line[:end])
            line = line[end:]
        return line

    def _write(self, line: bytes) -> None:
        """Log a line, or the last part of one."""
        mark = f"[part {self._parts + 1}, the last] " if self._parts else ""
        self._parts = 0
        self._put(mark, line.removesuffix(b"\r"))

    def _put(self, mark: str, line: bytes) -> None:
        text = mark + line.decode(errors="backslashreplace")
        self.last.append(text if len(text) <= _MOST_KEPT else text[:_MOST_KEPT] + "...")
        with contextlib.suppress(Exception):  # somebody's log handler
            process_logger.info("%s: %s", self._name, text)
