"""LogFile: a log file that can be reopened, so that logrotate can move it away.

Decides what happens when it can't be: the old one is written on, and says so.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, TextIO

from trio_run import CannotStart

if TYPE_CHECKING:
    from pathlib import Path

logger = logging.getLogger(__name__)


class LogFile(logging.StreamHandler[TextIO]):
    """A handler that appends to a file.

    Raises:
      CannotStart: if the file can't be opened.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            super().__init__(self._open())
        except OSError as exc:
            raise CannotStart(
                f"cannot write the log to {path}: {exc.strerror}; "
                "choose another file with --log-file or COLLECTOR_LOG_FILE"
            ) from exc

    def reopen(self) -> None:
        """Go on with a new file if the old one was moved away."""
        try:
            new = self._open()
        except OSError as exc:
            logger.error("cannot reopen %s, so the old file goes on: %s", self._path, exc.strerror)
            return
        old = self.stream
        self.setStream(new)
        old.close()
        logger.info("reopened %s", self._path)

    def close(self) -> None:
        self.stream.close()
        super().close()

    def _open(self) -> TextIO:
        return self._path.open("a", encoding="utf-8")
