"""Limits: how many clients may be there at once.

Decides it by what a process may have: each takes a descriptor and some memory. The descriptors of
one process are all of a kind: when clients have taken the last one, the page is not served either,
nor can the database be opened. So there are places for the page, its viewers, the health checks and
our own files first; and those that are left are shared by the ports where lines come in.
"""

from __future__ import annotations

import math

try:
    import resource
except ImportError:  # pragma: no cover - only Windows has no such limit
    resource = None  # type: ignore[assignment]

# Megabytes, as measured with TLS and rounded up.
BASE_MB = 192
CLIENT_MB = 0.5

MOST_AT_A_PORT = 1_000
VIEWERS = 100  # of the page, and of the tail
PROBES = 128  # of the status page: what StatusPage takes at the most
_OUR_OWN = 64  # files and sockets, rounded up


def descriptors() -> float:
    """How many descriptors this process may have."""
    if resource is None:
        return math.inf
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return math.inf if soft == resource.RLIM_INFINITY else soft


def clients_at_a_port(ports: int) -> int:
    """How many may be served at once at each of so many ports."""
    left = (descriptors() - _OUR_OWN - PROBES - 2 * VIEWERS) // ports
    return int(max(1, min(MOST_AT_A_PORT, left)))
