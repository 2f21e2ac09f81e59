"""log: where lines of the log go, and which. They go to stderr: systemd, Docker and Kubernetes keep
that.

To replace it, set up the logging that you like before the group runs, structlog for example: the
log of trio_run comes by the logger ``trio_run``, that of requests by ``trio_run.access``.
"""

from __future__ import annotations

import logging


def set_up_logging(level: str) -> None:
    """Log to stderr."""
    logging.basicConfig(format="%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    set_level(level)


def set_level(level: str) -> None:
    """Log from this level on. Requests are logged at debug alone: probes come every few seconds."""
    logging.getLogger().setLevel(level.upper())
    requests = logging.INFO if level.upper() == "DEBUG" else logging.WARNING
    logging.getLogger("trio_run.access").setLevel(requests)
