"""``python -m benchmarks``: SIGTERM to process exit, with many idle TCP connections.

Each round measures every server in turn, so that a noisy machine is noisy to all of them; the ratio is that of the
same round.
"""

import argparse
import signal
import socket
import statistics
import subprocess
import sys
import time

from .servers import SERVERS


def connect(port: int, count: int) -> list[socket.socket]:
    """Open connections, and make sure that each is served."""
    connections = [socket.create_connection(("127.0.0.1", port)) for _ in range(count)]
    for connection in connections:
        connection.sendall(b"x")
    for connection in connections:
        if connection.recv(1) != b"x":
            raise RuntimeError("a connection was not served")
    return connections


def stop_time(server: str, count: int) -> tuple[float, int]:
    """Seconds from SIGTERM to the server's exit, and how many clients were reset."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.servers", server],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    with process:
        connections = connect(int(process.stdout.readline()), count)
        began = time.perf_counter()
        process.send_signal(signal.SIGTERM)
        if process.wait() != 0:
            raise RuntimeError(f"{server} exited with {process.returncode}")
        seconds = time.perf_counter() - began
    resets = 0
    for connection in connections:
        try:
            connection.recv(1)
        except ConnectionResetError:
            resets += 1
        connection.close()
    return seconds, resets


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--connections", type=int, default=2000, help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=7, help="default: %(default)s")
    options = parser.parse_args()
    times: dict[str, list[float]] = {server: [] for server in SERVERS}
    for number in range(1, options.rounds + 1):
        line = [f"round {number}"]
        for server in SERVERS:
            seconds, resets = stop_time(server, options.connections)
            times[server].append(seconds)
            line.append(f"{server} {seconds:.3f} s" + (f" ({resets} resets)" if resets else ""))
        print(", ".join(line), flush=True)
    base = "plain Trio"
    print(
        f"\n{options.connections:,} idle connections, SIGTERM to exit: medians, and ratios to {base}"
    )
    for server, seconds_each in times.items():
        ratios = [ours / plain for ours, plain in zip(seconds_each, times[base], strict=True)]
        print(
            f"{server:>12}  {statistics.median(seconds_each):.3f} s "
            f"({min(seconds_each):.3f} to {max(seconds_each):.3f})  "
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        )


if __name__ == "__main__":
    main()
