"""``python -m benchmarks``: what a stop costs, and what the library costs while nothing stops.

Each figure is shown beside its peers'.
"""

from __future__ import annotations

import argparse
import resource
import sys
from pathlib import Path

from . import _plots
from ._results import Results
from ._run import FAILED, Plan, carry_out
from ._scenarios import LARGEST, SCENARIOS

_NAMES = [scenario.name for scenario in SCENARIOS]
_PEERS = list(dict.fromkeys(peer for scenario in SCENARIOS for peer in scenario.peers))


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def _counts(text: str) -> list[int]:
    counts = [_positive(part) for part in text.split(",")]
    if max(counts) > LARGEST:
        raise argparse.ArgumentTypeError(
            f"the limit on open files (ulimit -n) allows {LARGEST:,} connections"
        )
    return counts


def _peers(text: str) -> list[str]:
    peers = text.split(",")
    for peer in peers:
        if peer not in _PEERS:
            raise argparse.ArgumentTypeError(f"no {peer!r} among {', '.join(_PEERS)}")
    return peers


def _read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    add = parser.add_argument
    add("--list", action="store_true", help="say what there is to measure, and exit")
    add("--quick", action="store_true", help="fewer rounds and connections: about 5 minutes")
    add(
        "--scenario",
        action="append",
        choices=_NAMES,
        metavar="NAME",
        help="measure this one; may be given more than once",
    )
    add("--peers", type=_peers, metavar="A,B", help="measure only these")
    add("--connections", type=_counts, metavar="N,N", help="in every scenario, instead of its own")
    add("--rounds", type=_positive, metavar="N", help="default: 5, with --quick 2")
    add(
        "--output",
        type=Path,
        default=Path(__file__).parent / "results",
        metavar="DIR",
        help="where table.txt, results.json and the plots go (default: benchmarks/results)",
    )
    return parser.parse_args()


def _list() -> None:
    for scenario in SCENARIOS:
        counts = ", ".join(f"{count:,}" for count in scenario.counts)
        print(f"{scenario.name:12}  {scenario.about}")
        print(f"{'':12}  {counts} {scenario.unit}; {', '.join(scenario.peers)}")


def main() -> int:
    options = _read_options()
    if options.list:
        _list()
        return 0
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limits[1], limits[1]))  # a child inherits it
    plan = Plan(
        scenarios=[
            one for one in SCENARIOS if not options.scenario or one.name in options.scenario
        ],
        peers=options.peers,
        counts=options.connections,
        rounds=options.rounds or (2 if options.quick else 5),
        seconds=0.5 if options.quick else 2.0,
        quick=options.quick,
    )
    measured, remarks = carry_out(plan)
    results = Results(measured, remarks)
    results.write(options.output)
    print(results.table())
    try:
        pictures = _plots.draw(results, options.output)
    except ImportError as exc:
        print(f"no plots: {exc}")
        pictures = []
    names = ["table.txt", "results.json", *(picture.name for picture in pictures)]
    print(f"In {options.output}: {', '.join(names)}")
    # A peer that fails is named; whether it stops well is its own business.
    return int(any(whom.endswith(", trio-run") for whom in remarks[FAILED]))


if __name__ == "__main__":
    sys.exit(main())
