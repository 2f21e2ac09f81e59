"""What changes while it runs, and what does not."""

import logging
from collections.abc import Iterator

import pytest

from ..config import Config, ConfigError
from ..settings import Settings


@pytest.fixture(autouse=True)
def levels() -> Iterator[None]:
    """The log as it was, after the test."""
    loggers = [logging.getLogger(), logging.getLogger("trio_run.access")]
    before = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, before, strict=True):
        logger.setLevel(level)


def test_the_greeting_and_the_log_level_change() -> None:
    configs = [Config(), Config(greeting="Hi!", log_level="debug")]
    settings = Settings(lambda: configs.pop(0))
    settings.reload()
    assert settings.now == Config(greeting="Hi!", log_level="debug")
    assert logging.getLogger().level == logging.DEBUG
    assert logging.getLogger("trio_run.access").level == logging.INFO


def test_what_cannot_be_read_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    configs = [Config()]

    def read() -> Config:
        if not configs:
            raise ConfigError("there is no such file")
        return configs.pop()

    settings = Settings(read)
    settings.reload()
    assert settings.now == Config()
    assert "the old settings stay: there is no such file" in caplog.text
