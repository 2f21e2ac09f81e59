"""The group: who is in it, and why they stop in that order.

A real client, and so the real clock.
"""

import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from trio_run import HTTPListener
from trio_run.testing import connect, read_to_end, running

from .. import web
from ..app import make_group
from ..config import Config
from ..settings import Settings

FREE_PORTS = Config(port=0, status_port=0)


async def test_a_job_whose_request_had_begun_is_taken_and_done_at_a_stop() -> None:
    group = make_group(Settings(lambda: FREE_PORTS))
    [door] = [each.actor for each in group.members if each.name == "web"]
    assert isinstance(door, HTTPListener)
    async with running(group), await connect(door) as client:
        await client.send_all(b"POST /jobs HTTP/1.1\r\nHost: test\r\nContent-Length: 1\r\n")
        group.stop()
        await client.send_all(b"\r\n0")
        assert b'{"job":1}' in await read_to_end(client)
    [jobs] = [each for each in group.report.actors if each.name == "jobs"]
    assert jobs.detail == "0 waiting, 1 done"


@pytest.mark.parametrize(
    ("host", "url"), [("127.0.0.1", "http://127.0.0.1:"), ("::1", "http://[::1]:")]
)
async def test_it_says_where_it_is(host: str, url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with running(make_group(Settings(lambda: replace(FREE_PORTS, host=host)))):
        pass
    assert f"the service is at {url}" in caplog.text


@pytest.fixture
def handed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The path of a socket that somebody else has opened for us."""
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        monkeypatch.setattr(web, "inherited_sockets", lambda: {"any name": [listening]})
        yield path


async def test_it_listens_where_it_is_handed_a_socket(
    handed_over: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    group = make_group(Settings(lambda: FREE_PORTS))
    async with running(group), await connect(handed_over) as client:
        await client.send_all(b"GET / HTTP/1.0\r\n\r\n")
        assert b'"greeting":"Hello!"' in await read_to_end(client)
    assert f"the service is at the socket {handed_over}" in caplog.text
    assert {each.outcome for each in group.report.actors} == {"returned"}


def test_the_worker_leaves_some_of_the_grace_to_the_others() -> None:
    group = make_group(Settings(lambda: Config(grace=10, lame_duck=5)))
    [worker] = [each for each in group.members if each.name == "jobs"]
    assert worker.grace == 4.5
