"""Two runs of the tests at the same time get different ports, and none that a client may be given."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

from tests.support.ports import free_ports, last_port

ROOT = Path(__file__).parents[2]
#: Takes ports, says which, and keeps them until its input ends.
_RUN = "import sys; from tests.support.ports import free_ports; print(*free_ports(200), flush=True); sys.stdin.read()"


def test_runs_at_the_same_time_get_different_ports() -> None:
    command = [sys.executable, "-c", _RUN]
    runs = [
        subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]
    try:
        taken = [run.stdout.readline().split() for run in runs if run.stdout]
    finally:
        for run in runs:
            run.communicate()
    ports = [int(port) for of_one in taken for port in of_one]
    assert len(ports) == len(set(ports)) == 800
    assert max(ports) <= last_port()


def test_a_port_is_given_once_and_none_that_is_listened_on() -> None:
    first = free_ports(3)
    assert not {*first} & {*free_ports(3)}
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert server.getsockname()[1] not in free_ports(5)


def test_a_port_comes_back_when_its_run_has_ended() -> None:
    say = "from tests.support.ports import take; import sys; sys.exit(not take(int(sys.argv[1])))"
    code = "from tests.support.ports import free_ports; print(*free_ports(1))"
    port = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert subprocess.run([sys.executable, "-c", say, port.strip()], cwd=ROOT, check=False).returncode == 0
