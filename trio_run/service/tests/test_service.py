"""The program as people run it: a process, with its options, its signals and its exit code."""

import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from trio_run.testing import Program, open_program

from ..config import NAME, PREFIX

MODULE = "trio_run.service"
COMMAND = [sys.executable, "-m", MODULE, "--port", "0", "--status-port", "0"]


@asynccontextmanager
async def open_service(*options: str) -> AsyncIterator[tuple[Program, str]]:
    """It runs, on free ports: the process, and the URL of the service."""
    async with open_program([*COMMAND, *options]) as service:
        yield service, await said_url(service, "the service is at ")


async def said_url(service: Program, text: str) -> str:
    return (await service.line_with(text)).split()[-1]


async def test_a_signal_stops_it_when_the_jobs_that_wait_are_done() -> None:
    async with open_service() as (service, url), httpx.AsyncClient() as client:
        for _ in range(3):
            assert (await client.post(f"{url}jobs", content="0.1")).status_code == 202
        service.signal(signal.SIGTERM)
        assert await service.exit_code() == 0
    assert "0 waiting, 3 done" in service.report


async def test_the_status_page_says_that_it_is_ready() -> None:
    async with open_service() as (service, _), httpx.AsyncClient() as client:
        page = await said_url(service, "the status page is at ")
        assert (await client.get(f"{page}readyz")).status_code == 200


async def test_sighup_reads_the_file_again(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text('greeting = "Good morning!"\n')
    async with open_service("--config", str(file)) as (service, url):
        assert await greeting(url) == "Good morning!"
        file.write_text('greeting = "Good evening!"\n')
        service.signal(signal.SIGHUP)
        await service.line_with("read the settings again")
        assert await greeting(url) == "Good evening!"


async def greeting(url: str) -> str:
    async with httpx.AsyncClient() as client:
        return str((await client.get(url)).json()["greeting"])


async def test_what_cannot_be_right_is_one_sentence() -> None:
    async with open_program([*COMMAND, "--port", "x"]) as service:
        assert await service.exit_code() == 2
    assert service.output == f"{NAME}: --port must be a whole number, not 'x'\n"


async def test_a_variable_that_sets_nothing_is_in_the_log() -> None:
    async with open_program(COMMAND, env={**os.environ, f"{PREFIX}GREETNG": "Hi!"}) as service:
        await service.line_with(f"{PREFIX}GREETNG sets nothing: is it to be {PREFIX}GREETING?")
        await said_url(service, "the service is at ")
        service.signal(signal.SIGTERM)
        assert await service.exit_code() == 0


async def test_a_port_in_use_is_one_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        async with open_program([*COMMAND, "--port", str(port)]) as service:
            assert await service.exit_code() == 1
    assert f":{port}" in service.output
    assert "Traceback" not in service.output
