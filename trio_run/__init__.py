"""A lifecycle for Trio programs.

A program told to stop, by a signal, a failure or a call, stops taking new work, finishes the work
it has, closes things in the right order, gives up on what hangs, says what happened, and exits with
the right code::

    import trio
    from trio_run import Group, SignalReceiver, TCPListener

    async def echo(stream):
        async for chunk in stream:
            await stream.send_all(chunk)

    async def main():
        group = Group(grace=30)
        group.add(SignalReceiver())               # SIGINT, SIGTERM
        group.add(TCPListener(echo, 7000))
        await group.run()

    trio.run(main)

The tour:

* A :class:`Group` runs actors; the first to exit stops all. :class:`Actor` says what an actor is,
  :class:`Member` is one in its group, :class:`Cause` why it all stops, :class:`Report` what became
  of it, and :class:`GroupFailed` what is raised when an actor failed. An actor raises
  :class:`CannotStart` for what a person can mend.
* :func:`run` is all that for a whole process: signals, exit code, and a watchdog.
* Code inside an actor says and asks: :class:`busy`, :func:`stopping`, :func:`wait_stopping`,
  :func:`cancel_on_stop`.
* Ready-made actors: :class:`SignalReceiver`; :class:`TCPListener`, :class:`UnixListener`,
  :class:`UDPListener`, :class:`WebSocketListener` and :class:`HTTPListener`;
  :class:`HypercornServer`; :class:`BackgroundTasks` and :func:`every`. :class:`Restarting` begins
  one anew when it has failed, and :class:`StatusPage` shows the group to probes, to Prometheus and
  to a person.
* :class:`Process` is a child process as an actor, and :class:`ProcessFailed` how it fails.
  :class:`Workers` is several of them on the same sockets.
* Under a service manager: :func:`inherited_sockets` are those that it has opened for us, and
  :func:`run` says how the program is. :class:`SystemdNotifier` does that for a group of one's own.
* Tests have what they need of a group, a client and a process in :mod:`trio_run.testing`.

Everything is logged on the logger ``trio_run``.
"""

from ._actor import Actor, Cause, State
from ._errors import CannotStart, GroupFailed, ProcessFailed
from ._group import Group, current_group
from ._inside import busy, cancel_on_stop, stopping, wait_stopping
from ._journal import Event
from ._listeners._http._listener import HTTPListener
from ._listeners._hypercorn import HypercornServer
from ._listeners._tcp import TCPListener
from ._listeners._udp import Datagram, UDPListener
from ._listeners._unix import UnixListener
from ._listeners._websocket import WebSocketListener
from ._member import Member
from ._notify import SystemdNotifier
from ._process import Process
from ._report import ActorReport, Report
from ._restart import Restarting
from ._run import run
from ._signals import SignalReceiver
from ._status._listener import StatusPage
from ._systemd import inherited_sockets
from ._tasks import BackgroundTasks, every
from ._workers import Workers

__all__ = [
    "Actor",
    "ActorReport",
    "BackgroundTasks",
    "CannotStart",
    "Cause",
    "Datagram",
    "Event",
    "Group",
    "GroupFailed",
    "HTTPListener",
    "HypercornServer",
    "Member",
    "Process",
    "ProcessFailed",
    "Report",
    "Restarting",
    "SignalReceiver",
    "State",
    "StatusPage",
    "SystemdNotifier",
    "TCPListener",
    "UDPListener",
    "UnixListener",
    "WebSocketListener",
    "Workers",
    "busy",
    "cancel_on_stop",
    "current_group",
    "every",
    "inherited_sockets",
    "run",
    "stopping",
    "wait_stopping",
]
