"""What `recollect up` prints and how it ends, over stand-ins for nodes (see test_supervisor)."""

import json
import os
import random
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from cluster.cli import run
from cluster.data_folder import open_folder
from cluster.ports import free_base
from tests.helpers import eventually, is_running

UP = """
import os, sys
from pathlib import Path
from cluster.commands.up import _run, counted_signals
from cluster.commands.output import show_failure
from cluster.errors import CommandFailed
from cluster.supervisor import Shape, supervised
from tests.unit.test_supervisor import stand_in
data, port, as_json, restart = Path(sys.argv[1]), int(sys.argv[2]), *map(int, sys.argv[3:])
try:
    with counted_signals() as stop, supervised(
        data, Shape(2), port=port, environment=os.environ, command=stand_in, restart=bool(restart)
    ) as supervisor:
        _run(supervisor, stop, as_json=bool(as_json))
except CommandFailed as failure:
    show_failure(failure, as_json=False)
    sys.exit(1)
"""


class Up:
    """The process and what it has printed so far."""

    def __init__(self, process, folder, out, err):
        self.process = process
        self.folder = folder
        self._out = out
        self._err = err

    @property
    def out(self):
        return self._out.read_text().splitlines()

    @property
    def err(self):
        return self._err.read_text()

    def pid(self, node):
        return int((self.folder / node / "pid").read_text())

    def await_ready(self):
        eventually(lambda: "Ready" in self.out, what="Ready")


@contextmanager
def up(tmp_path, *, as_json=0, restart=0, how=""):
    folder = tmp_path / "data"
    out, err = tmp_path / "out", tmp_path / "err"
    base = free_base(2, random.Random())
    with out.open("wb") as stdout, err.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-c", UP, str(folder), str(base), str(as_json), str(restart)],
            stdout=stdout,
            stderr=stderr,
            env=dict(os.environ) | {"PYTHONPATH": str(Path.cwd()), "STAND_IN": how},
        )
    try:
        yield Up(process, folder, out, err)
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signal_ends_all(tmp_path, number):
    """Each way to ask for the end ends the nodes too, with code 0."""
    with up(tmp_path) as cluster:
        cluster.await_ready()
        pids = [cluster.pid("node1"), cluster.pid("node2")]
        cluster.process.send_signal(number)

        assert cluster.process.wait(20) == 0
        assert not any(is_running(pid) for pid in pids)
        assert cluster.out[-1] == "Ready"
        assert any("http://127.0.0.1:" in line for line in cluster.out)


def test_death_is_told_and_left(tmp_path):
    """A node that dies is named on stderr; the others stay."""
    with up(tmp_path) as cluster:
        cluster.await_ready()
        victim, other = cluster.pid("node1"), cluster.pid("node2")
        os.kill(victim, signal.SIGKILL)
        sentence = f"node1 (pid {victim}) was killed by SIGKILL; it is left dead\n"
        eventually(lambda: sentence in cluster.err)

        assert is_running(other)
        assert cluster.process.poll() is None


def test_restart_is_told(tmp_path):
    """With --restart the node comes back under a new process id."""
    with up(tmp_path, restart=1) as cluster:
        cluster.await_ready()
        victim = cluster.pid("node1")
        os.kill(victim, signal.SIGKILL)
        eventually(lambda: "node1 restarted" in cluster.err)

        assert cluster.pid("node1") != victim


def test_events_as_json(tmp_path):
    """With --json each event is a line of JSON on stdout."""
    with up(tmp_path, as_json=1) as cluster:
        ready = eventually(lambda: [json.loads(line) for line in cluster.out])[0]
        cluster.process.terminate()
        cluster.process.wait(20)

        assert ready["event"] == "ready"
        assert [node["name"] for node in ready["nodes"]] == ["node1", "node2"]
        assert json.loads(cluster.out[-1]) == {"event": "stopped", "killed": []}
        assert cluster.err == ""


def test_node_that_gives_up_at_start(tmp_path):
    """A node that cannot start ends `up` with its last words and where to read more."""
    with up(tmp_path, how="fail") as cluster:
        assert cluster.process.wait(20) == 1
        assert "before the cluster was ready: cannot go on" in cluster.err
        assert "log" in cluster.err
        assert "Ready" not in cluster.out


def test_stop_before_it_is_ready(tmp_path):
    """Who changes their mind during the start does not wait for it."""
    with up(tmp_path, how="unready") as cluster:
        eventually((cluster.folder / "node2" / "pid").exists)
        cluster.process.terminate()

        assert cluster.process.wait(20) == 0
        assert "Ready" not in cluster.out


def test_folder_in_use(tmp_path, capsys):
    """A second `up` on a folder is refused with a sentence and code 1."""
    with open_folder(tmp_path):
        code = run(["up", "--data", str(tmp_path), "--nodes", "1"])

    assert code == 1
    assert "is in use by another `recollect up`" in capsys.readouterr().err
