"""Metrics: how a group is, and what has happened in it, in Prometheus' text format.

They are read off the group when Prometheus asks, and only then. What else the program has
registered with ``prometheus_client`` follows them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._actor import State
from .._group import supervisor_of
from ._answer import Answer, text
from ._snapshot import connections_in, groups_in

try:
    import prometheus_client
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
except ImportError:  # the extra is not installed
    prometheus_client = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from .._group import Group


def metrics(group: Group, counts: Mapping[tuple[str, str], int]) -> Answer:
    """What /metrics answers.

    Args:
      counts: how many events there were, by the group's path and the kind.
    """
    if prometheus_client is None:
        return text(501, "/metrics needs prometheus_client: pip install 'trio-run[metrics]'")
    registry = prometheus_client.CollectorRegistry()
    registry.register(_Collector(group, counts))
    ours = prometheus_client.generate_latest(registry)
    theirs = prometheus_client.generate_latest(prometheus_client.REGISTRY)
    return Answer(200, ours + theirs, prometheus_client.CONTENT_TYPE_LATEST)


class _Collector:
    """Prometheus' word for who gives metrics when they are asked for."""

    def __init__(self, group: Group, counts: Mapping[tuple[str, str], int]) -> None:
        self._group = group
        self._counts = counts

    def describe(self) -> list[GaugeMetricFamily]:
        return []

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        def gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
            return GaugeMetricFamily(f"trio_run_{name}", text, labels=["group", *labels])

        ready = gauge("ready", "Is the group fit for work?")
        state = gauge("state", "1 for the state in which the group is.", "state")
        age = gauge("age_seconds", "Since the group's start.")
        stop = gauge("stop_seconds", "Since its stop began; 0 before.")
        fit = gauge("actor_ready", "Is the actor ready, and fit for work?", "actor")
        connections = gauge("connections", "Of a listener.", "actor")
        busy = gauge("busy_connections", "Those in the midst of a request.", "actor")
        events = CounterMetricFamily(
            "trio_run_events", "What has happened, by its kind.", labels=["group", "kind"]
        )
        for raw, group in groups_in(self._group):
            path = _encodable(raw)
            supervisor = supervisor_of(group)
            now = supervisor.clock() if group.state is not State.NEW else 0.0
            began = supervisor.requests.stop.began - supervisor.began_at
            ready.add_metric([path], group.ready)
            for one in State:
                state.add_metric([path, one.value], group.state is one)
            age.add_metric([path], now)
            stop.add_metric([path], max(0.0, now - began))
            for life in supervisor.roster:
                is_ready = life.member.state is State.RUNNING and life.is_fit
                name = _encodable(life.name)
                fit.add_metric([path, name], is_ready)
                if (numbers := connections_in(life.status)) is not None:
                    connections.add_metric([path, name], numbers[0])
                    busy.add_metric([path, name], numbers[1])
        for (raw, kind), count in self._counts.items():
            events.add_metric([_encodable(raw), kind], count)
        yield from (ready, state, age, stop, fit, connections, busy, events)


def _encodable(name: str) -> str:
    """It without surrogates, such as a file's name may have: UTF-8 has none."""
    return name.encode(errors="backslashreplace").decode()
