"""The configurations of HAProxy and nginx in the guide: with them a restart loses nothing."""

import hashlib
import os
import pwd
import signal
import socket
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import httpx
import pytest
import trio

from trio_run.testing import Program, open_program

from . import TIMEOUT
from .ports import free_port
from .programs import find, python

EXAMPLES = Path(__file__).parent.parent / "docs" / "examples"
HOST = "127.0.0.1"
CLIENTS = 12
APP = """
import hashlib

async def app(scope, receive, send):
    assert scope["type"] == "http"
    body, more = b"", True
    while more:
        message = await receive()
        body += message["body"]
        more = message["more_body"]
    headers = dict(scope["headers"])
    assert scope["client"][0] == "127.0.0.1" and scope["client"][1] == 0, "its proxy is believed"
    assert scope["scheme"] == "http", "its client is not"
    answer = hashlib.sha256(body).hexdigest().encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": answer})
"""

Balancer = Callable[[list[int], socket.socket, Path], AbstractAsyncContextManager[None]]


def configuration(name: str, changes: dict[str, str]) -> str:
    """The guide's, with other addresses and what else this machine needs."""
    text = (EXAMPLES / name).read_text()
    for old, new in changes.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


def at(ports: list[int]) -> dict[str, str]:
    return {f"10.0.0.{number}:8000": f"{HOST}:{port}" for number, port in enumerate(ports, 1)}


@asynccontextmanager
async def running(
    command: list[str], front: socket.socket, stop: signal.Signals, **environment: str
) -> AsyncIterator[None]:
    process = await trio.lowlevel.open_process(
        command,
        env=os.environ | environment,
        pass_fds=[front.fileno()],
        stdin=subprocess.DEVNULL,
    )
    try:
        yield
        process.send_signal(stop)
        with trio.fail_after(TIMEOUT):
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.terminate()
        with trio.CancelScope(shield=True):
            await process.wait()


@asynccontextmanager
async def haproxy(ports: list[int], front: socket.socket, directory: Path) -> AsyncIterator[None]:
    file = directory / "haproxy.cfg"
    file.write_text(configuration("haproxy.cfg", at(ports) | {":80\n": f"fd@{front.fileno()}\n"}))
    command = [find("haproxy"), "-db", "-f", str(file)]
    async with running(command, front, signal.SIGUSR1):
        yield


@asynccontextmanager
async def nginx(ports: list[int], front: socket.socket, directory: Path) -> AsyncIterator[None]:
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = "".join(f"    {kind}_temp_path {directory}/{kind};\n" for kind in kinds)
    own = f"daemon off;\npid {directory}/pid;\nworker_processes 1;\n"
    if os.geteuid() == 0:
        own += f"user {pwd.getpwuid(0).pw_name};\n"
    file = directory / "nginx.conf"
    changes = {
        "events {}\n": f"{own}events {{}}\n",
        "http {\n": f"http {{\n{paths}    access_log off;\n",
        "listen 80;": "listen {}:{};".format(*front.getsockname()),
    }
    file.write_text(configuration("nginx.conf", at(ports) | changes))
    log = str(directory / "error.log")
    command = [find("nginx"), "-p", str(directory), "-e", log, "-c", str(file)]
    async with running(command, front, signal.SIGQUIT, NGINX=f"{front.fileno()};"):
        yield


@pytest.mark.parametrize("balancer", [haproxy, nginx])
async def test_a_rolling_restart_loses_nothing(balancer: Balancer, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(APP)
    ports = [free_port(), free_port()]
    answers: Counter[str] = Counter()
    enough, over = trio.Event(), trio.Event()

    async def serve(port: int, *, task_status: trio.TaskStatus[Program]) -> None:
        options = ["--app-dir", str(tmp_path), "--port", str(port), "--lame-duck", "1"]
        command = python("-m", "trio_run", "serve", "shop:app", *options, "--no-access-log")
        async with open_program(command) as program:
            await program.line_with("serving at")
            task_status.started(program)
            await over.wait()

    async def ask(number: int) -> None:
        method = "POST" if number % 2 else "GET"
        body = bytes([number]) * 1000 if number % 2 else b""
        digest = hashlib.sha256(body).hexdigest()
        claim = {"X-Forwarded-Proto": "https"}
        async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT, headers=claim) as client:
            while not enough.is_set():
                response = await client.request(method, "/", content=body)
                assert (response.status_code, response.text) == (200, digest)
                answers[method] += 1

    with socket.create_server((HOST, 0), backlog=512) as front:
        front.setblocking(False)
        url = "http://{}:{}".format(*front.getsockname())
        async with trio.open_nursery() as nursery:
            servers = [await nursery.start(serve, port) for port in ports]
            async with balancer(ports, front, tmp_path), trio.open_nursery() as clients:
                for number in range(CLIENTS):
                    clients.start_soon(ask, number)
                for turn in (0, 1, 0, 1):
                    servers[turn].signal(signal.SIGTERM)
                    assert await servers[turn].exit_code() == 0, servers[turn].output
                    servers[turn] = await nursery.start(serve, ports[turn])
                enough.set()
            over.set()
    assert min(answers["GET"], answers["POST"]) > 100
