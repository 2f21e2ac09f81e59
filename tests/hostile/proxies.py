"""nginx and HAProxy in front of a server, and what they have passed on."""

from __future__ import annotations

import os
import pwd
import re
import signal
import socket
import subprocess
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio

from .. import TIMEOUT
from ..programs import find

_NGINX = """
daemon off;
{user}
worker_processes 1;
pid {directory}/nginx.pid;
error_log {directory}/error.log info;
events {{ worker_connections 512; }}
http {{
    log_format tagged '$request_uri $status $upstream_status server=$upstream_http_server';
    access_log {directory}/access.log tagged;
    client_body_temp_path {directory}/client_body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    ignore_invalid_headers off;
    upstream servers {{ server {server} max_fails=0; keepalive 4; }}
    server {{
        listen {host}:{port};
        location / {{
            proxy_pass http://servers;
            proxy_pass_header Server;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_request_buffering {buffering};
            proxy_next_upstream off;
            proxy_ignore_client_abort on;
        }}
    }}
}}
"""
_HAPROXY = """
global
    log stdout format raw local0
    nbthread 1
defaults
    mode http
    log global
    http-reuse always
    retries 0
    timeout connect 10s
    timeout client 10s
    timeout server 10s
frontend front
    bind fd@{front}
    capture response header server len 20
    log-format "%HU %ST %ts server=%hs"
    default_backend back
backend back
    server one {server}
"""
_LINE = re.compile(r"/t/([\w.]+)\S* (-?\d+) .*server=(\S*)")


@dataclass
class Passed:
    """What a proxy says of the requests that it was sent: their tags, each as often as it came."""

    answered: Counter[str] = field(default_factory=Counter)  # by the server with 200
    others: Counter[str] = field(default_factory=Counter)
    lines: list[str] = field(default_factory=list)

    def read(self, text: str) -> None:
        self.lines = text.splitlines()
        for line in self.lines:
            found = _LINE.search(line)
            if found is not None:
                is_answer = found[2] == "200" and "trio-run" in found[3]
                (self.answered if is_answer else self.others)[found[1]] += 1


@asynccontextmanager
async def nginx(
    server: tuple[str, int], front: socket.socket, directory: Path, *, buffering: bool
) -> AsyncIterator[Passed]:
    """nginx, that listens with this socket. What it has passed on is known after the block."""
    passed = Passed()
    host, port = front.getsockname()
    config = directory / "nginx.conf"
    config.write_text(
        _NGINX.format(
            user=f"user {pwd.getpwuid(0).pw_name};" if os.geteuid() == 0 else "",
            directory=directory,
            server="{}:{}".format(*server),
            host=host,
            port=port,
            buffering="on" if buffering else "off",
        )
    )
    command = [find("nginx"), "-p", str(directory), "-e", str(directory / "error.log")]
    process = await trio.lowlevel.open_process(
        [*command, "-c", str(config)],
        env=os.environ | {"NGINX": f"{front.fileno()};"},
        pass_fds=[front.fileno()],
        stdin=subprocess.DEVNULL,
    )
    async with _ending(process, signal.SIGQUIT):
        yield passed
    passed.read((directory / "access.log").read_text(errors="replace"))


@asynccontextmanager
async def haproxy(
    server: tuple[str, int], front: socket.socket, directory: Path
) -> AsyncIterator[Passed]:
    """The same with HAProxy."""
    passed = Passed()
    config = directory / "haproxy.cfg"
    config.write_text(_HAPROXY.format(server="{}:{}".format(*server), front=front.fileno()))
    with (directory / "haproxy.log").open("wb") as log:
        process = await trio.lowlevel.open_process(
            [find("haproxy"), "-db", "-f", str(config)],
            pass_fds=[front.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        async with _ending(process, signal.SIGUSR1):
            yield passed
    passed.read((directory / "haproxy.log").read_text(errors="replace"))


@asynccontextmanager
async def _ending(process: trio.Process, signum: signal.Signals) -> AsyncIterator[None]:
    try:
        yield
        process.send_signal(signum)
        with trio.fail_after(TIMEOUT):
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.terminate()
        with trio.CancelScope(shield=True):
            await process.wait()
