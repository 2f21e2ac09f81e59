"""Run the README's Run command as a new user would: send a line, stop it, see that it exited as it
should.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile

free_ports = " --port 0 --udp-port 0 --web-port 0 --tail-port 0"
command = sys.argv[1] + free_ports + " --dir " + tempfile.mkdtemp()
with subprocess.Popen(
    ["bash", "-c", command],
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    start_new_session=True,
) as process:
    output = ""
    for line in process.stdout:
        print(line, end="")
        output += line
        if found := re.search(r"nc -N (\S+) (\d+)", line):
            with socket.create_connection((found[1], int(found[2]))) as client:
                client.sendall(b"hello\n")
                answer = client.recv(100)
            os.killpg(process.pid, signal.SIGINT)
if answer != b"ok 1\n" or "SIGINT received (exit code 0)" not in output:
    sys.exit("the README's Run command did not do what it should")
