"""Child: how a process is started, what can be done to it, and that nothing of it is left.

What it is started for, and when it is to end, is decided by who starts it.

It is started in Trio's own thread, since on Linux it dies with the thread that has started it. Its
pid, which is its group's number too, stays its own until it is reaped. So whatever is done to
either is done before that.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket as stdlib_socket
import subprocess
import sys
from collections.abc import Mapping
from importlib import resources
from typing import TYPE_CHECKING

import trio

from ._listeners._bind import check_given

if TYPE_CHECKING:
    from collections.abc import Sequence

# As it was when this was read: what is installed over it may be launched in another way.
_LAUNCHER = resources.files(__package__).joinpath("_launcher.py").read_text("utf-8")
_LOOK = 0.05  # seconds, where nobody says when a process has ended
_DONE = b"command "  # what the launcher reports before it becomes the command
_LIBRARIES = "LD_LIBRARY_PATH"
_PRIVATE = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


class Sockets:
    """Sockets for a child, and their names.

    Raises:
      TypeError, ValueError: if they can't be handed over.
    """

    def __init__(
        self,
        given: Mapping[str, Sequence[stdlib_socket.socket]] | Sequence[stdlib_socket.socket] | None,
    ) -> None:
        self.names: list[str] = []  # one for each; empty where they have none
        self.each: list[stdlib_socket.socket] = []
        if isinstance(given, Mapping):
            for name, some in given.items():
                check_given(some)
                self.names += [_check_name(name)] * len(some)
                self.each += some
        else:
            check_given(given)
            self.each += given or ()

    def descriptors(self) -> list[int]:
        """Their descriptors.

        Raises:
          OSError: if one has been closed.
        """
        found = [each.fileno() for each in self.each]
        if -1 in found:
            raise OSError(errno.EBADF, "a socket that it is to have is closed")
        return found


def _check_name(name: object) -> str:
    if not isinstance(name, str):
        raise TypeError(f"the name of a socket must be a string, not {name!r}")
    if ":" in name or not (name.isascii() and name.isprintable() and len(name) < 256):
        raise ValueError(
            f"{name!r} can't be the name of a socket: that has up to 255 printable ASCII "
            "characters, none of them a colon"
        )
    return name


class Child:
    """A process that runs a command, in a group of its own.

    Args:
      command: the program and its arguments.
      env: its environment, but for what speaks of this process alone; None for that of this one.
      cwd: its working directory, or None for that of this process.
      sockets: what it is to have, from descriptor 3 on.
      notify: the address of a socket that it may notify, or None.
      watchdog: after how many seconds without a sign of life it is ended, or None.
      outputs: what it is to have as stdout and stderr, or None each for what this process has.

    Raises:
      OSError: if it can't be started.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str] | None,
        cwd: str | None,
        sockets: Sockets,
        notify: str | None,
        watchdog: float | None,
        outputs: tuple[int | None, int | None],
    ) -> None:
        self._is_reaped = False
        if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
            raise OSError(errno.ECHILD, "SIGCHLD is ignored here, so nobody would hear how it ends")
        descriptors = sockets.descriptors()
        reading, writing = os.pipe()
        try:
            environment = _environment(env, notify, watchdog)
            # Python changes the one, and may need the other, as it is here, to begin at all.
            own = [environment.get(name, "") for name in ("LC_CTYPE", _LIBRARIES)]
            environment[_LIBRARIES] = os.environ.get(_LIBRARIES, "")
            launch = [
                *(sys.executable, "-I", "-S", "-c", _LAUNCHER),
                *(str(os.getpid()), str(writing)),
                *(" ".join(map(str, descriptors)), ":".join(sockets.names)),
                *(*own, cwd or "", *command),
            ]
            self._popen = subprocess.Popen(
                launch,
                env=environment,
                pass_fds=[*descriptors, writing],
                process_group=0,
                stdin=subprocess.DEVNULL,
                stdout=outputs[0],
                stderr=outputs[1],
            )
        except BaseException:
            os.close(reading)
            raise
        finally:
            os.close(writing)
        self.pid = self._popen.pid
        self._report = reading
        try:
            self._ended: int | None = os.pidfd_open(self.pid)
        except (AttributeError, OSError):  # another platform, or no descriptor is left
            self._ended = None

    async def launched(self) -> str | None:
        """Wait until it is the command. Returns why it can't be that, if so."""
        os.set_blocking(self._report, False)
        said = b""
        while True:
            await trio.lowlevel.wait_readable(self._report)
            more = os.read(self._report, 1024)
            if not more:
                break
            said += more
        if said == _DONE:
            return None
        stage, _, number = said.removeprefix(_DONE).decode(errors="replace").partition(" ")
        if not number.isdecimal():
            return "it ended before it was there"
        why = os.strerror(int(number))
        if stage == "directory":
            return f"its working directory: {why}"
        return why

    async def exited(self) -> None:
        """Wait until it has ended. It is not reaped by that."""
        if self._ended is not None:
            await trio.lowlevel.wait_readable(self._ended)
            return
        while not self._has_ended():  # noqa: ASYNC110 - nobody says when
            await trio.sleep(_LOOK)

    def _has_ended(self) -> bool:
        if not hasattr(os, "waitid"):  # pragma: no cover - tested on Linux
            return self._popen.poll() is not None
        what = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self.pid, what) is not None

    def signal(self, signum: signal.Signals) -> None:
        """Send it a signal; not to its group, of which it knows best what to do with it."""
        if not self._is_reaped:
            with contextlib.suppress(OSError):  # it may have become somebody else's
                os.kill(self.pid, signum)

    def kill(self) -> None:
        """Kill it, and its group."""
        if not self._is_reaped:
            with contextlib.suppress(OSError):  # there may be no group any more
                os.killpg(self.pid, signal.SIGKILL)
            self.signal(signal.SIGKILL)

    async def end(self) -> int:
        """Have it and its group gone, whatever comes meanwhile.

        Returns its exit code, which is negative if a signal ended it.
        """
        self.kill()
        with trio.CancelScope(shield=True):
            await self.exited()
        self._is_reaped = True
        code = self._popen.wait()
        os.close(self._report)
        if self._ended is not None:
            os.close(self._ended)
        return code


def _environment(
    env: Mapping[str, str] | None, notify: str | None, watchdog: float | None
) -> dict[str, str]:
    environment = dict(os.environ if env is None else env)
    for name in list(environment):
        if name in _PRIVATE or name.startswith("LISTEN_"):
            del environment[name]
    if notify is not None:
        environment["NOTIFY_SOCKET"] = notify
    if watchdog is not None:
        environment["WATCHDOG_USEC"] = str(int(watchdog * 1e6))
    return environment
