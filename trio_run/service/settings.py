"""settings: what holds now. SIGHUP has it read again, and what is wrong then changes nothing.

Ask ``settings.now`` each time that a setting is needed, and it is the new one. What is asked once,
as ports and the grace are, holds until the next start. To delete this file, give config.py's Config
to those who take Settings, and leave out the handler in app.py.
"""

import logging
from collections.abc import Callable

from .config import Config, ConfigError
from .log import set_up_logging

logger = logging.getLogger(__name__)


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
            self.now = self._read()
        except ConfigError as exc:
            logger.error("the old settings stay: %s", exc)
            return
        set_up_logging(self.now.log_level)
        logger.info("read the settings again; ports and times change with the next start")
