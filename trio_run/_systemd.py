"""inherited_sockets: the sockets that whoever started this process has opened for it.

That is systemd, or anybody who speaks to its children as systemd does to services. What is done
with the sockets is each listener's own business.
"""

from __future__ import annotations

import os
import re
import socket
import stat
import weakref

from ._errors import CannotStart

_FIRST = 3  # after stdin, stdout and stderr
_inherited: weakref.WeakSet[socket.socket] = weakref.WeakSet()
_NAMELESS = "unknown"  # as systemd calls one that it was given no name for


def inherited_sockets() -> dict[str, list[socket.socket]]:
    """The sockets that a service manager hands over, by their names; {} where there are none.

    For a listener's ``sockets=``. The name is the unit's ``FileDescriptorName=``; without that it
    is the name of the socket's unit, ``shop.socket``. Several sockets may have one name.

    It may be called once: the variables that tell of the sockets (LISTEN_FDS, LISTEN_PID and
    LISTEN_FDNAMES) are taken out of the environment, and the sockets are closed on exec. So no
    child of this process takes them for its own. Sockets that are meant for another process are
    not returned.

    Raises:
      CannotStart: if the variables make no sense, or tell of something that is no open socket.
    """
    pid = os.environ.pop("LISTEN_PID", None)
    count = os.environ.pop("LISTEN_FDS", None)
    named = os.environ.pop("LISTEN_FDNAMES", None)
    if pid is None or _number("LISTEN_PID", pid) != os.getpid() or count is None:
        return {}
    descriptors = range(_FIRST, _FIRST + _number("LISTEN_FDS", count))
    names = named.split(":") if named else []
    if named is not None and len(names) != len(descriptors):
        raise CannotStart(
            f"LISTEN_FDS tells of {len(descriptors)} descriptors, and LISTEN_FDNAMES={named!r} "
            f"has {len(names)} names: who started this process has set one of them wrong"
        )
    for descriptor in descriptors:
        _check(descriptor)
    sockets: dict[str, list[socket.socket]] = {}
    for number, descriptor in enumerate(descriptors):
        os.set_inheritable(descriptor, False)
        name = names[number] if names else _NAMELESS
        one = socket.socket(fileno=descriptor)
        _inherited.add(one)
        sockets.setdefault(name, []).append(one)
    return sockets


def is_inherited(one: socket.socket) -> bool:
    """Is it somebody else's too, since inherited_sockets() has returned it?"""
    return one in _inherited


def _number(variable: str, text: str) -> int:
    # A process has no more descriptors or pids than this by far. int() takes "1_0", too, and " 1".
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise CannotStart(f"{variable}={text!r} in the environment is not a whole number")
    return int(text)


def _check(descriptor: int) -> None:
    which = f"descriptor {descriptor}, of which LISTEN_FDS tells,"
    try:
        mode = os.fstat(descriptor).st_mode
    except OSError as exc:
        raise CannotStart(f"{which} is not open in this process: {exc.strerror}") from exc
    if not stat.S_ISSOCK(mode):
        raise CannotStart(f"{which} is no socket: a listener can't use it")
