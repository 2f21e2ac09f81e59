"""Real programs under test: started, read, signalled and waited for."""

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

TIMEOUT = 60  # seconds: a bound for a test that hangs, not a measure


class Program:
    """A running program. What it writes, on stdout and stderr together, is read all the time."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._written = bytearray()
        self._grew = trio.Event()
        self._ended = False

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def output(self) -> str:
        """All that it has written so far."""
        return self._written.decode()

    def signal(self, signum: signal.Signals) -> None:
        self._process.send_signal(signum)

    async def line_with(self, text: str) -> str:
        """Wait for a whole line that contains the text; return it."""
        with trio.fail_after(TIMEOUT):
            while True:
                for line in self.output.splitlines(keepends=True):
                    if text in line and line.endswith("\n"):
                        return line.rstrip("\n")
                assert not self._ended, f"no line with {text!r} in:\n{self.output}"
                await self._grew.wait()

    async def exit_code(self) -> int:
        """Wait until it has exited and all its output is read. Negative if a signal killed it."""
        with trio.fail_after(TIMEOUT):
            code = await self._process.wait()
            while not self._ended:
                await self._grew.wait()
            return code

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for chunk in self._process.stdout:
            self._written += chunk
            self._rang()
        self._ended = True
        self._rang()

    def _rang(self) -> None:
        self._grew.set()
        self._grew = trio.Event()


@asynccontextmanager
async def open_program(
    *command: str, source: str | None = None, cwd: str | os.PathLike[str] | None = None
) -> AsyncIterator[Program]:
    """Start ``python *command``, or the source text of a program; kill it at the end if it still
    runs.
    """
    arguments = [sys.executable, "-u"]
    if source is not None:
        arguments += ["-c", textwrap.dedent(source)]
    process = await trio.lowlevel.open_process(
        [*arguments, *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=cwd,
    )
    program = Program(process)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(program._read)
        try:
            yield program
        finally:
            if process.returncode is None:
                process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
            nursery.cancel_scope.cancel()
