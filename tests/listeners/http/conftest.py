"""The fixtures of the tests of HTTP."""

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture
def _access_log_off() -> Iterator[None]:
    logger = logging.getLogger("trio_run.access")
    logger.setLevel(logging.WARNING)
    yield
    logger.setLevel(logging.NOTSET)
