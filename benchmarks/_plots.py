"""The pictures: what a Trio user gains in requests, how a stop grows, and how one goes off."""

from __future__ import annotations

import statistics
from pathlib import Path

from ._results import Results
from ._scenarios import SCENARIOS

_SCENARIO, _RATE = "idle-tcp", "http-rate"
_COLOURS = {
    "trio-run": "#d62728",
    "plain-trio": "#1f77b4",
    "asyncio": "#2ca02c",
    "uvloop": "#9467bd",
    "go-oklog": "#17becf",
    "close-loop": "#7f7f7f",
}


_HTTP_COLOURS = {"trio-run": "#d62728", "hypercorn-trio": "#1f77b4"}
_ELSEWHERE = "#bbbbbb"


def draw(results: Results, directory: Path) -> list[Path]:
    """Those pictures that the results are enough for.

    Raises:
      ImportError: if matplotlib is not installed.
    """
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.fonttype"] = "none"  # text as text: half the size
    mpl.rcParams["svg.hashsalt"] = "trio-run"
    return [
        path
        for path in (
            _rates(results, directory / "http.svg"),
            _stop_by_count(results, directory / "stop.svg"),
            _timeline(results, directory / "drain.svg"),
        )
        if path is not None
    ]


def _rates(results: Results, path: Path) -> Path | None:
    from matplotlib import pyplot as plt

    counts = results.counts(_RATE)
    if not counts:
        return None
    count = counts[0]
    (scenario,) = (one for one in SCENARIOS if one.name == _RATE)
    rates = {
        peer: list(values.values())
        for peer in scenario.peers
        if (values := results.by_round(_RATE, count, peer, "rate"))
    }
    peers = sorted(rates, key=lambda peer: statistics.median(rates[peer]))
    middles = [statistics.median(rates[peer]) for peer in peers]
    low = [m - min(rates[peer]) for peer, m in zip(peers, middles, strict=True)]
    high = [max(rates[peer]) - m for peer, m in zip(peers, middles, strict=True)]
    figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
    bars = axes.barh(
        peers,
        middles,
        xerr=[low, high],
        color=[_HTTP_COLOURS.get(peer, _ELSEWHERE) for peer in peers],
        capsize=3,
    )
    axes.bar_label(bars, labels=[f"{middle:,.0f}" for middle in middles], padding=6)
    axes.margins(x=0.15)
    axes.set(
        xlabel=f"requests per second, {count:,} connections, one core",
        title="HTTP on Trio, in colour, and elsewhere (median and range)",
    )
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    return path


def _stop_by_count(results: Results, path: Path) -> Path | None:
    from matplotlib import pyplot as plt

    counts = results.counts(_SCENARIO)
    if len(counts) < 2:
        return None
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for peer, colour in _COLOURS.items():
        points = {
            count: list(values.values())
            for count in counts
            if (values := results.by_round(_SCENARIO, count, peer, "exit"))
        }
        if not points:
            continue
        middles = [statistics.median(values) for values in points.values()]
        low = [m - min(values) for m, values in zip(middles, points.values(), strict=True)]
        high = [max(values) - m for m, values in zip(middles, points.values(), strict=True)]
        width = 2.5 if peer == "trio-run" else 1.3
        axes.errorbar(
            list(points),
            middles,
            yerr=[low, high],
            label=peer,
            color=colour,
            linewidth=width,
            marker="o",
            markersize=4,
            capsize=3,
        )
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="idle TCP connections",
        ylabel="seconds from SIGTERM to exit",
        title="What a stop costs (median, and range of the rounds)",
    )
    axes.grid(which="both", alpha=0.25)
    axes.legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    return path


def _timeline(results: Results, path: Path) -> Path | None:
    from matplotlib import pyplot as plt

    counts = results.counts(_SCENARIO)
    if not counts:
        return None
    count = 10_000 if 10_000 in counts else counts[-1]
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for peer, colour in _COLOURS.items():
        turns = sorted(
            (
                one
                for one in results.measured
                if (one.scenario, one.count, one.peer) == (_SCENARIO, count, peer)
            ),
            key=lambda one: one.sample["exit"] or 0.0,
        )
        if not turns:
            continue
        middle = turns[len(turns) // 2]
        times, left = zip(*middle.timeline, strict=True)
        width = 2.5 if peer == "trio-run" else 1.3
        axes.step(times, left, where="post", label=peer, color=colour, linewidth=width)
        axes.plot([middle.sample["exit"] or 0.0], [0], marker="|", markersize=14, color=colour)
        axes.plot(
            [middle.sample["refused"] or 0.0],
            [count],
            marker="v",
            markersize=6,
            color=colour,
            clip_on=False,
        )
    axes.set(
        xlabel="seconds from SIGTERM",
        ylabel="connections open",
        title=f"How a stop goes off, {count:,} connections\n(▾ refuses new ones, | has exited)",
        ylim=(0, count * 1.02),
    )
    axes.set_xlim(left=0)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    return path
