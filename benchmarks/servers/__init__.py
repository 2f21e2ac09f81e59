"""The servers that are measured, each a process of its own.

``python -m benchmarks.servers.MODULE [WHICH] WHAT [ARGUMENT]`` starts one. Each listens on
127.0.0.1 at a port that the kernel chooses, and prints that port as its first line. It exits at
SIGTERM as its own users would have it. WHAT is what it serves:

* ``echo``: every chunk is sent back;
* ``work``: the same, and the chunk ``work`` is followed by 100 ms of work and the reply ``done``;
* ``hold``: one chunk is sent back, and the handler never leaves;
* ``reply``: one chunk is sent back, and the connection is closed;
* ``tls CERTIFICATE``, ``unix PATH``, ``udp``, ``websocket``: echo, in other ways;
* ``http``, ``https CERTIFICATE``: what the app in ``http`` answers.
"""

HOST = "127.0.0.1"
WORK = 0.1  # seconds
