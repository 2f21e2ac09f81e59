"""LogFile: what is logged before and after the file has been moved away."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from trio_run import CannotStart
from trio_run.skeleton.logfile import LogFile

parent = logging.getLogger("trio_run.skeleton")
logger = parent.getChild("test")


@pytest.fixture
def log_file(tmp_path: Path) -> Iterator[LogFile]:
    handler = LogFile(tmp_path / "log")
    parent.addHandler(handler)
    parent.setLevel(logging.INFO)
    yield handler
    parent.setLevel(logging.NOTSET)
    parent.removeHandler(handler)
    handler.close()


def test_it_appends(tmp_path: Path, log_file: LogFile) -> None:
    logger.info("grüße")
    log_file.close()
    again = LogFile(tmp_path / "log")
    again.emit(logging.makeLogRecord({"msg": "more"}))
    again.close()
    assert (tmp_path / "log").read_text("utf-8") == "grüße\nmore\n"


def test_reopened_it_goes_on_where_there_is_a_new_file(tmp_path: Path, log_file: LogFile) -> None:
    logger.info("one")
    old = log_file.stream
    (tmp_path / "log").rename(tmp_path / "log.1")
    logger.info("two")
    log_file.reopen()
    logger.info("three")
    assert old.closed
    assert (tmp_path / "log.1").read_text() == "one\ntwo\n"
    assert (tmp_path / "log").read_text() == f"reopened {tmp_path}/log\nthree\n"


def test_reopened_where_nothing_was_moved_it_goes_on_in_the_same_file(
    tmp_path: Path, log_file: LogFile
) -> None:
    logger.info("one")
    log_file.reopen()
    assert (tmp_path / "log").read_text() == f"one\nreopened {tmp_path}/log\n"


def test_where_it_cannot_be_reopened_the_old_file_goes_on(
    tmp_path: Path, log_file: LogFile
) -> None:
    (tmp_path / "log").rename(tmp_path / "log.1")
    (tmp_path / "log").mkdir()
    log_file.reopen()
    logger.info("two")
    assert (tmp_path / "log.1").read_text() == (
        f"cannot reopen {tmp_path}/log, so the old file goes on: Is a directory\ntwo\n"
    )


def test_a_file_that_cannot_be_written_is_said_with_its_cure(tmp_path: Path) -> None:
    with pytest.raises(CannotStart) as caught:
        LogFile(tmp_path / "none" / "log")
    assert str(caught.value) == (
        f"cannot write the log to {tmp_path}/none/log: No such file or directory; "
        "choose another file with --log-file or COLLECTOR_LOG_FILE"
    )
