import sys

import structlog
import trio

from trio_run import Group, run

log = structlog.get_logger()


def to_structlog(event):
    fields = {"actor": event.actor, **event.fields}
    fields.pop("report", None)  # the timeline: run() logs it
    is_bad = event.kind in ("failed", "cut", "held up")
    (log.error if is_bad else log.info)(event.kind, group="shop", **fields)


if __name__ == "__main__":
    group = Group(name="shop", grace=20)
    group.on_event(to_structlog)
    group.add(trio.sleep_forever, name="worker")
    sys.exit(run(group))
