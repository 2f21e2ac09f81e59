"""log: where lines of the log go, and which. They go to stderr: systemd, Docker and Kubernetes keep
that.

To replace it, set up the logging that you like before the group runs, structlog for example: the
log of trio_run comes by the logger ``trio_run``, that of requests by ``trio_run.access``.
"""

import logging


def set_up_logging(level: str) -> None:
    """Log to stderr from this level on. Called again, it changes the level."""
    logging.basicConfig(format="%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    logging.getLogger().setLevel(level.upper())
    # Requests at debug alone: probes come every few seconds.
    requests = logging.INFO if level.upper() == "DEBUG" else logging.WARNING
    logging.getLogger("trio_run.access").setLevel(requests)
