"""One server: how it is started, on which core, and what time and memory it has used.

It is one process. A peer whose process has children is measured with them.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

_ROOT = Path(__file__).parent.parent
_PATIENCE = 60.0  # seconds for a server to start, and to stop

_CORES = sorted(os.sched_getaffinity(0))
CLIENT_CORE, SERVER_CORE = _CORES[0], _CORES[-1]
APART = CLIENT_CORE != SERVER_CORE


class LeftOut(Exception):
    """A peer, or a whole scenario, that can't be measured here: what it needs is not installed."""


def python(module: str, *arguments: str) -> list[str]:
    """The command of one of our server modules."""
    return [sys.executable, "-m", f"benchmarks.servers.{module}", *arguments]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
    return port


def is_listening(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


class Server:
    """A running server: ``with Server(command) as server``.

    It prints its port as its first line; or it is one that is given its port, and is there when it
    listens. Unless it may use all cores, it has one of its own. It is killed, with its children, if
    it still runs at the end of the block.
    """

    def __init__(
        self,
        command: list[str],
        *,
        port: int | None = None,
        environment: Mapping[str, str] | None = None,
        apart: bool = True,
    ) -> None:
        self._command = command
        self._cores = {SERVER_CORE} if apart else set(_CORES)
        self._port = port
        self._environment = environment
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed at the end of the block
        self.cpu = self.peak = 0.0
        self.tracebacks = 0  # written to stderr: that takes time, and shows that something is wrong

    def __enter__(self) -> Self:
        os.sched_setaffinity(0, self._cores)  # a child inherits it, and Go looks at it once
        try:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if self._port is None else self._stderr,
                stderr=self._stderr,
                env=self._environment,
                cwd=_ROOT,
                process_group=0,
            )
        finally:
            os.sched_setaffinity(0, {CLIENT_CORE})
        self.pid = self._process.pid
        self.ended = os.pidfd_open(self.pid)  # readable once the process has exited
        self.first_line = self._read_line() if self._port is None else self._wait_listening()
        if not self.first_line:
            self.__exit__(None, None, None)
            raise self._failure
        return self

    def _read_line(self) -> str:
        stdout = self._process.stdout
        assert stdout is not None
        select.select([stdout], [], [], _PATIENCE)
        os.set_blocking(stdout.fileno(), False)
        line = (stdout.readline() or b"").decode().strip()
        os.set_blocking(stdout.fileno(), True)
        return line

    def _wait_listening(self) -> str:
        assert self._port is not None
        until = time.monotonic() + _PATIENCE
        while time.monotonic() < until and not select.select([self.ended], [], [], 0.01)[0]:
            if is_listening(self._port):
                return str(self._port)
        return ""

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            self._process.wait()
        os.close(self.ended)
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._stderr.seek(0)
        said = self._stderr.read().decode(errors="replace").strip()
        self._stderr.close()
        self.tracebacks = said.count("Traceback (most recent call last)")
        last = said.rpartition("\n")[2]
        if last.startswith(("ImportError", "ModuleNotFoundError")):
            self._failure: Exception = LeftOut(last)
        else:
            self._failure = RuntimeError(f"{self._command} failed:\n{said}")

    def terminate(self) -> None:
        self._process.send_signal(signal.SIGTERM)

    def cpu_seconds(self) -> float:
        """What it has used so far, all threads: the clock of clock_getcpuclockid(3)."""
        seconds = 0.0
        for pid in _family(self.pid):
            with contextlib.suppress(OSError):  # it has exited
                seconds += time.clock_gettime((~pid << 3) | 2)
        return seconds

    def memory(self) -> float:
        """Bytes resident now. The most so far is kept as ``peak``."""
        resident = peak = 0.0
        for pid in _family(self.pid):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError, KeyError):  # exited
                status = Path(f"/proc/{pid}/status").read_text()
                values = dict(line.split(":", 1) for line in status.splitlines())
                resident += int(values["VmRSS"].split()[0]) * 1024.0
                peak += int(values["VmHWM"].split()[0]) * 1024.0
        self.peak = max(self.peak, peak)
        return resident

    def collect(self) -> str:
        """Wait for its exit, check that it was a good one, and return what else it has printed."""
        assert self._process.stdout is not None
        said = self._process.stdout.read().decode()
        _, status, used = os.wait4(self.pid, 0)
        self._process.returncode = os.waitstatus_to_exitcode(status)
        self.cpu = used.ru_utime + used.ru_stime
        if self._process.returncode not in (0, -signal.SIGTERM):  # Uvicorn dies of it, in the end
            raise RuntimeError(f"{self._command} exited with {self._process.returncode}")
        return said


def _family(pid: int) -> Iterator[int]:
    """A process and its children."""
    yield pid
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        yield from map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
