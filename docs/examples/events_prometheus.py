import sys

import trio
from prometheus_client import Counter, Gauge

from trio_run import Group, StatusPage, run

happened = Counter("shop_happened", "What has happened to which actor.", ["kind", "actor"])
holdups = Gauge("shop_holdups", "How many actors hold up the stop.")


def to_prometheus(event):
    happened.labels(event.kind, event.actor or "").inc()
    if event.kind == "held up":
        holdups.set(len(event.fields["by"]))


if __name__ == "__main__":
    group = Group(name="shop", grace=20)
    group.on_event(to_prometheus)
    group.add(trio.sleep_forever, name="worker")
    group.add(StatusPage(8081))  # its /metrics has these, too
    sys.exit(run(group))
