"""How much more several workers do than one, where the app is what takes the time."""

from __future__ import annotations

import time

from ._command_lines import command_line
from ._requests import send_requests
from ._server import Server, free_port
from ._turn import Sample, Turn

_CLIENTS = 50
_FIRST = 200  # requests to warm up


def measure_workers(turn: Turn) -> Sample:
    """So many workers, and one, each with the same clients, for some time."""
    one, many = (_rate(turn, workers) for workers in (1, turn.count))
    return {"gain": many / one, "rate": many}


def _rate(turn: Turn, workers: int) -> float:
    port = free_port()
    command = command_line(turn.peer, "working", port, workers)
    with Server(command, port=port, apart=False) as server:
        turn.servers.append(server)
        while send_requests(port, 2 * workers, 2 * workers).failed:  # until all are there
            time.sleep(0.1)
        send_requests(port, _CLIENTS, _FIRST)
        outcome = send_requests(port, _CLIENTS, round(2000 * workers * turn.seconds))
        if outcome.failed:
            raise RuntimeError(f"{len(outcome.failed)} requests failed: {outcome.reasons}")
        server.terminate()
    return outcome.answered / outcome.seconds
