"""settings: what holds now. SIGHUP has it read again, and what is wrong then changes nothing.

Ask ``settings.now`` each time that a setting is needed, and it is the new one. To delete this file,
give config.py's Config to those who take Settings, and leave out the handler in app.py.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from .config import ConfigError
from .log import set_level

if TYPE_CHECKING:
    from collections.abc import Callable

    from .config import Config

logger = logging.getLogger(__name__)

_LIVE = ("greeting", "log_level")  # the others hold from the start to the end


class Settings:
    """The config that holds now.

    Raises:
      ConfigError: what ``read`` raises, at the beginning.
    """

    def __init__(self, read: Callable[[], Config]) -> None:
        self._read = read
        self.now = read()

    def reload(self) -> None:
        """Read it again."""
        try:
            config = self._read()
        except ConfigError as exc:
            logger.error("the old settings stay: %s", exc)
            return
        new = replace(self.now, **{name: getattr(config, name) for name in _LIVE})
        if new != config:
            logger.warning("only %s can change before the next start", " and ".join(_LIVE))
        self.now = new
        set_level(new.log_level)
        logger.info("read the settings again")
