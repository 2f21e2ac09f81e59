"""The launcher: a program that prepares its own process, and becomes a command, keeping its pid.

It is begun by _child, which has given it a process group of its own, and hands its text to Python.
It imports little, so that it is quick. What it can't do it reports, and what that means is decided
in _child.
"""

import fcntl
import os
import signal
import sys

_FIRST = 3  # where handed over sockets begin, as systemd has it
_PR_SET_PDEATHSIG = 1
_NOT_DONE = 127  # the exit code, as a shell has it


def main(arguments: list[str]) -> None:
    """Become the command at the end of the arguments."""
    parent, report, sockets, names, ctype, libraries, directory, *command = arguments
    stage = "prepare"
    try:
        _die_with(int(parent))
        _forget_signals()
        reporting = _hand_over(sockets, int(report))
        _restore({"LC_CTYPE": ctype, "LD_LIBRARY_PATH": libraries})
        _describe(sockets, names)
        if directory:
            stage = "directory"
            os.chdir(directory)
        stage = "command"
        os.write(reporting, b"command ")
        os.execvp(command[0], command)
    except OSError as exc:
        os.write(reporting if stage != "prepare" else int(report), f"{stage} {exc.errno}".encode())
    os._exit(_NOT_DONE)


def _die_with(parent: int) -> None:
    """Be killed when the thread ends that has begun this process; on Linux."""
    if sys.platform == "linux":
        try:
            import ctypes  # slow, and not in every Python

            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        except (ImportError, OSError, AttributeError):
            pass
    if os.getppid() != parent:  # it has ended before that
        os._exit(_NOT_DONE)


def _forget_signals() -> None:
    """Each signal is at its default, and none blocked, whatever Python or the parent has set."""
    for number in signal.valid_signals():
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def _hand_over(sockets: str, report: int) -> int:
    """Move the sockets to where they are looked for. Returns where to report from now on.

    They are first moved out of each other's way.
    """
    given = [int(number) for number in sockets.split()]
    after = _FIRST + len(given)
    *moved, reporting = (
        fcntl.fcntl(each, fcntl.F_DUPFD_CLOEXEC, after) for each in (*given, report)
    )
    for each in {*given, report}:  # a socket may be given twice
        if each >= after:
            os.close(each)
    for number, each in enumerate(moved, _FIRST):
        os.dup2(each, number, inheritable=True)
    return reporting


def _restore(own: dict[str, str]) -> None:
    """Have these variables as the command is to have them, and not as this Python has them."""
    for name, text in own.items():
        os.environ.pop(name, None)
        if text:
            os.environ[name] = text


def _describe(sockets: str, names: str) -> None:
    """Say in the environment what there is."""
    pid = str(os.getpid())
    if sockets:
        os.environ["LISTEN_PID"] = pid
        os.environ["LISTEN_FDS"] = str(len(sockets.split()))
        if names:
            os.environ["LISTEN_FDNAMES"] = names
    if "WATCHDOG_USEC" in os.environ:
        os.environ["WATCHDOG_PID"] = pid


if __name__ == "__main__":
    main(sys.argv[1:])
