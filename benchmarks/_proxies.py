"""HAProxy and nginx before several servers, as a rolling restart needs them.

Neither sends to another server what one may have seen, unless it says so: HAProxy answers 502 then,
and leaves it to the client to try again. nginx can't tell a server that refuses from one that ended
the connection: it tries again itself, and its log says for which.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from ._server import LeftOut, free_port, is_listening

_PATIENCE = 30.0
_HAPROXY = """
global
    nbthread 1
defaults
    mode http
    http-reuse always
    option redispatch 1
    retries 3
    retry-on conn-failure
    timeout connect 5s
    timeout client 60s
    timeout server 60s
frontend front
    bind 127.0.0.1:{port}
    default_backend back
backend back
    balance roundrobin
{servers}
"""
_NGINX = """
daemon off;
{user}
worker_processes 1;
pid {directory}/nginx.pid;
error_log {directory}/error.log crit;
events {{ worker_connections 1024; }}
http {{
    log_format attempts '$request_method [$upstream_status] [$upstream_connect_time]';
    access_log {directory}/access.log attempts buffer=64k;
    client_body_temp_path {directory}/client_body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    upstream servers {{
{servers}
        keepalive 50;
    }}
    server {{
        listen 127.0.0.1:{port};
        keepalive_requests 1000000;
        location / {{
            proxy_pass http://servers;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_next_upstream error timeout non_idempotent;
        }}
    }}
}}
"""


@contextlib.contextmanager
def haproxy(servers: Sequence[int], scratch: Path) -> Iterator[int]:
    """HAProxy before servers at these ports. Yields its own."""
    port = free_port()
    lines = (f"    server s{each} 127.0.0.1:{each} check inter 200ms" for each in servers)
    config = scratch / "haproxy.cfg"
    config.write_text(_HAPROXY.format(port=port, servers="\n".join(lines)))
    command = [_find("haproxy"), "-db", "-f", str(config)]
    with _running(command, port, signal.SIGUSR1):
        yield port


@contextlib.contextmanager
def nginx(servers: Sequence[int], scratch: Path) -> Iterator[int]:
    """The same with nginx. Its log is there after the block: see count_repeated."""
    port = free_port()
    lines = (f"        server 127.0.0.1:{each} fail_timeout=1s;" for each in servers)
    _log(scratch).unlink(missing_ok=True)
    config = scratch / "nginx.conf"
    config.write_text(
        _NGINX.format(
            port=port,
            directory=scratch,
            servers="\n".join(lines),
            user=f"user {pwd.getpwuid(0).pw_name};" if os.geteuid() == 0 else "",
        )
    )
    error_log = str(scratch / "error.log")
    command = [_find("nginx"), "-p", str(scratch), "-e", error_log, "-c", str(config)]
    with _running(command, port, signal.SIGQUIT):
        yield port


def count_repeated(scratch: Path) -> Counter[str]:
    """By method, the requests that nginx had sent to a server which ended the connection."""
    repeated: Counter[str] = Counter()
    for line in _log(scratch).read_text().splitlines():
        method, statuses, connected = (part.strip("[]") for part in line.split(" [", 2))
        first = statuses.split(", ")[0]
        if first == "502" and connected.split(", ")[0] != "-":
            repeated[method] += 1
    return repeated


def _log(scratch: Path) -> Path:
    return scratch / "access.log"


def _find(program: str) -> str:
    path = shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if path is None:
        raise LeftOut(f"{program} is not installed")
    return path


@contextlib.contextmanager
def _running(command: list[str], port: int, stop: signal.Signals) -> Iterator[None]:
    nowhere = subprocess.DEVNULL
    process = subprocess.Popen(command, stdin=nowhere, stdout=nowhere, stderr=nowhere)
    try:
        until = time.monotonic() + _PATIENCE
        while not is_listening(port):
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"{command} does not listen")
            time.sleep(0.01)
        yield
        process.send_signal(stop)
        process.wait(_PATIENCE)
    finally:
        process.kill()
        process.wait()
