"""News: what has happened lately in a group, and in the groups inside it, as plain data.

It decides what is kept of an event, and how it is put in words. While nothing happens it costs
nothing. It keeps no exception, and with it no traceback. It keeps no group that is over, and the
counts of the last of those alone.
"""

from __future__ import annotations

from collections import Counter, deque
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from .._errors import one_line
from ._snapshot import groups_in

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._group import Group
    from .._journal import Event

_MOST = 200  # events that are kept
_NAMES = 10  # in a line
_MOST_OVER = 100  # groups that are over, and whose counts are kept


class News:
    """Hears what happens.

    Args:
      ring: called whenever something has happened.
    """

    def __init__(self, ring: Callable[[], object]) -> None:
        self._counts: dict[str, Counter[str]] = {}  # by the group's path, then by the kind
        self._ring = ring
        self._last: deque[dict[str, Any]] = deque(maxlen=_MOST)
        self._number = 0  # of the last event
        self._groups: WeakSet[Group] = WeakSet()
        self._over: deque[str] = deque()  # paths of inner groups

    def hear_of(self, group: Group) -> None:
        """Hear of it, and of all groups inside it by now, from now on."""
        for path, one in groups_in(group):
            if one not in self._groups:
                self._groups.add(one)
                one.on_event(partial(self._heard, path, one is not group))

    @property
    def counts(self) -> dict[tuple[str, str], int]:
        """How many events there were, by the group's path and the kind."""
        return {
            (path, kind): count
            for path, counts in self._counts.items()
            for kind, count in counts.items()
        }

    def since(self, number: int) -> tuple[list[dict[str, Any]], int]:
        """What has happened after the event of that number, and the number of the last one."""
        return [one for one in self._last if one["number"] > number], self._number

    def _heard(self, path: str, is_inner: bool, event: Event) -> None:
        self._counts.setdefault(path, Counter())[event.kind] += 1
        if is_inner and event.kind == "over":
            self._over.append(path)
            if len(self._over) > _MOST_OVER:
                self._counts.pop(self._over.popleft(), None)
        self._number += 1
        news = {
            "number": self._number,
            "when": event.when,
            "group": path,
            "actor": event.actor,
            "kind": event.kind,
            "text": _in_words(event),
        }
        self._last.append(news)
        self._ring()


def _in_words(event: Event) -> str:
    """What there is to say beyond its kind."""
    fields: dict[str, Any] = dict(event.fields)
    if event.kind == "failed":
        return one_line(fields["error"]) + (" (ignored)" if fields["ignored"] else "")
    if event.kind == "stopped":
        return ": ".join(filter(None, [fields["outcome"], fields["detail"]]))
    if event.kind == "restarted":
        return f"life {fields['lives']:,} begins"
    if event.kind == "held up":
        names = fields["by"]
        more = f" and {len(names) - _NAMES:,} more" if len(names) > _NAMES else ""
        return f"waiting for {', '.join(names[:_NAMES])}{more}"
    if event.kind == "lame duck":
        return f"it goes on serving for {fields['seconds']:g} s"
    if event.kind == "over":
        return f"after {fields['seconds']:.2f} s, with exit code {fields['exit_code']}"
    return str(fields.get("reason", ""))
