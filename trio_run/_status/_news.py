"""News: what has happened lately in a group, and in the groups inside it, as plain data.

It decides what is kept of an event, and how it is put in words. While nothing happens it costs
nothing. It keeps no exception, and with it no traceback.
"""

from __future__ import annotations

from collections import Counter, deque
from functools import partial
from typing import TYPE_CHECKING, Any

from .._errors import one_line
from ._snapshot import groups_in

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._group import Group
    from .._journal import Event

_MOST = 200  # events that are kept
_NAMES = 10  # in a line


class News:
    """Hears what happens.

    Args:
      ring: called whenever something has happened.
    """

    def __init__(self, ring: Callable[[], object]) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()  # by the group's path and the kind
        self._ring = ring
        self._last: deque[dict[str, Any]] = deque(maxlen=_MOST)
        self._number = 0  # of the last event
        self._groups: set[Group] = set()

    def hear_of(self, group: Group) -> None:
        """Hear of it, and of all groups inside it by now, from now on."""
        for path, one in groups_in(group):
            if one not in self._groups:
                self._groups.add(one)
                one.on_event(partial(self._heard, path))

    def since(self, number: int) -> tuple[list[dict[str, Any]], int]:
        """What has happened after the event of that number, and the number of the last one."""
        return [one for one in self._last if one["number"] > number], self._number

    def _heard(self, path: str, event: Event) -> None:
        self.counts[path, event.kind] += 1
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
