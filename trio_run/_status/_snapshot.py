"""How a group is at this moment, as plain data: what /status says, and what the page draws.

It decides which actors are shown where there are very many. It keeps nothing.
"""

from __future__ import annotations

import heapq
import math
import re
from typing import TYPE_CHECKING, Any

from .._actor import State
from .._errors import one_line
from .._group import Group, supervisor_of
from .._member import Life

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .._actor import Cause
    from .._report import ActorReport

_CONNECTIONS = re.compile(r"(?:^|: )([\d,]+) connections?, ([\d,]+) busy")


def groups_in(group: Group, path: str | None = None) -> Iterator[tuple[str, Group]]:
    r"""It and all groups inside it, each with its path: "shop", "shop/tills".

    A slash in the name of an inner one is "\/" there, and a backslash "\\": so no two have the same
    path.
    """
    path = group.name if path is None else path
    yield path, group
    for life in supervisor_of(group).roster:
        if isinstance(life.actor, Group):
            yield from groups_in(life.actor, f"{path}/{_step(life.name)}")


def as_data(group: Group, most: float = math.inf, since: float | None = None) -> dict[str, Any]:
    """It, its actors and the groups among them, as docs/reference/status.rst says.

    Args:
      most: how many actors of each group are shown. Of more those that are here come first, then
        those that failed or were cut, then those that left last.
      since: when the outermost group began, on Trio's clock; None where this is it.
    """
    supervisor = supervisor_of(group)
    stop = supervisor.requests.stop
    has_begun = group.state is not State.NEW
    began_at = supervisor.began_at
    since = began_at if since is None else since
    now = supervisor.clock() if has_begun else 0.0
    began = ends = duration = None
    if stop.cause is not None and has_begun:
        began = stop.began - began_at
        ends = _finite(stop.deadline - began_at)
        duration = max(0.0, now - began)
    everybody = supervisor.roster.everybody
    shown = everybody if len(everybody) <= most else _chosen(everybody, int(most))
    return {
        "name": group.name,
        "state": group.state.value,
        "ready": group.ready,
        "status": group.status,
        "start": began_at - since if has_begun else None,
        "now": now,
        "cause": None if stop.cause is None else _cause(stop.cause),
        "began": began,
        "ends": ends,
        "duration": duration,
        "exit_code": None if began is None else int(supervisor.exit_code),
        "actors": [
            _here(one, began_at, most, since) if isinstance(one, Life) else _left(one)
            for one in shown
        ],
        "left_out": len(everybody) - len(shown),
    }


def _step(name: str) -> str:
    return name.replace("\\", r"\\").replace("/", r"\/")


def names_of_the_rest(group: Group) -> list[str]:
    """Who has begun and not ended, but for daemons."""
    return [
        life.name
        for life in supervisor_of(group).roster
        if life.began and not life.is_finished and not life.member.daemon
    ]


def connections_in(status: str) -> tuple[int, int] | None:
    """How many connections, and how many of them busy, where a status says so as a listener's."""
    found = _CONNECTIONS.search(status)
    if found is None:
        return None
    connections, busy = (int(number.replace(",", "")) for number in found.groups())
    return connections, busy


def _cause(cause: Cause) -> dict[str, Any]:
    return {
        "actor": cause.actor,
        "error": None if cause.error is None else one_line(cause.error),
        "signal": None if cause.signal is None else cause.signal.name,
        "reason": cause.reason,
    }


def _here(life: Life, began_at: float, most: float, since: float) -> dict[str, Any]:
    member = life.member
    data = _line(life.report(began_at), has_left=member.state is State.STOPPED)
    actor = life.actor
    data["state"] = member.state.value
    data["fit"] = life.is_fit
    data["cut"] = life.was_cut
    data["daemon"] = member.daemon
    data["group"] = as_data(actor, most, since) if isinstance(actor, Group) else None
    return data


def _left(line: ActorReport) -> dict[str, Any]:
    """One that the group has forgotten, but for its line."""
    data = _line(line, has_left=True)
    data["state"] = State.STOPPED.value
    data["fit"] = True
    data["cut"] = line.outcome == "cut"
    data["daemon"] = False
    data["group"] = None
    return data


def _line(line: ActorReport, *, has_left: bool) -> dict[str, Any]:
    connections, busy = connections_in(line.detail) or (None, None)
    return {
        "name": line.name,
        "outcome": line.outcome if has_left else None,
        "ready": line.ready,
        "interrupted": line.interrupted,
        "stopped": line.stopped,
        "error": None if line.error is None else one_line(line.error),
        "detail": line.detail,
        "connections": connections,
        "busy": busy,
    }


def _chosen(everybody: list[Life | ActorReport], most: int) -> list[Life | ActorReport]:
    """As many of them, in their order."""

    def weight(one: Life | ActorReport) -> tuple[bool, bool, float]:
        stopped = one.stopped_at if isinstance(one, Life) else one.stopped
        return stopped is None, one.outcome in ("failed", "cut"), stopped or 0.0

    kept = {id(one) for one in heapq.nlargest(most, everybody, key=weight)}
    return [one for one in everybody if id(one) in kept]


def _finite(seconds: float) -> float | None:
    return seconds if math.isfinite(seconds) else None
