"""ticker: what happens every minute, and at a stop is finished if it has begun.

To replace it, write another function, plain or async. To delete it, delete this file, its test and
what names it in app.py.
"""

import logging

from .jobs import Jobs

logger = logging.getLogger(__name__)


def tell_counts(jobs: Jobs) -> None:
    """Log how many jobs there are."""
    logger.info("jobs: %s", jobs.status)
