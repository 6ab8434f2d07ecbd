"""The processes of a local cluster, watched with small stand-ins for nodes: real processes that
answer /readyz and obey or ignore signals as they are told through their environment."""

import json
import os
import random
import signal
import socket
import stat
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from cluster.config import Config
from cluster.data_folder import LOCK_FILE, PARAMETERS_FILE, Parameters, open_folder
from cluster.errors import CommandFailed
from cluster.local_cluster import LocalCluster
from cluster.ports import cluster_ports, free_base, taken
from cluster.supervisor import RESTART_DELAY_MAX_S, Death, Shape, restart_delay_s, supervised
from tests.helpers import eventually, is_running

STAND_IN = """
import http.server, os, signal, sys
from cluster.parent_death import end_with
end_with(int(sys.argv[1]), int(sys.argv[2]))
how = os.environ.get("STAND_IN", "")
if how == "fail":
    sys.exit("Error: cannot go on\\nHint: do not ask")
if how == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        ready = how != "unready"
        self.send_response(200 if ready else 503)
        self.end_headers()
        self.wfile.write(b'{"result": null}' if ready else b'{"status": {"error": "no leader"}}')
place = ("127.0.0.1", int(os.environ["RECOLLECT_HTTP_PORT"]))
http.server.HTTPServer(place, Handler).serve_forever()
"""

UP = """
import os, sys
from pathlib import Path
from tests.unit.test_supervisor import stand_in
from cluster.supervisor import Shape, supervised
with supervised(Path(sys.argv[1]), Shape(2), port=int(sys.argv[2]), environment=os.environ,
                command=stand_in) as supervisor:
    supervisor.start_all()
    print(*supervisor.pids.values(), flush=True)
    sys.stdin.read()
"""


def stand_in(parent_pid, pipe):
    return [sys.executable, "-c", STAND_IN, str(parent_pid), str(pipe)]


@pytest.fixture
def base():
    """A base of ports that are free now."""
    return free_base(3, random.Random())


@contextmanager
def stand_ins(folder, base, *, nodes=2, how="", restart=False):
    environment = dict(os.environ) | {"STAND_IN": how}
    with supervised(
        folder,
        Shape(nodes),
        port=base,
        environment=environment,
        restart=restart,
        command=stand_in,
    ) as supervisor:
        yield supervisor


def is_ready(supervisor):
    return not supervisor.unready()


class TestProcesses:
    def test_nodes_start_and_become_ready(self, tmp_path, base):
        """Every node runs, answers on its own port and has its pid file."""
        with stand_ins(tmp_path, base) as supervisor:
            supervisor.start_all()
            eventually(lambda: is_ready(supervisor))

            assert sorted(supervisor.pids) == ["node1", "node2"]
            for name, pid in supervisor.pids.items():
                assert (tmp_path / name / "pid").read_bytes() == b"%d\n" % pid
            assert taken(cluster_ports(base, 2)) == [base + 1, base + 2]

    def test_leaving_the_block_leaves_no_process(self, tmp_path, base):
        """The end of the block is the end of its nodes."""
        with stand_ins(tmp_path, base) as supervisor:
            supervisor.start_all()
            pids = list(supervisor.pids.values())
            eventually(lambda: is_ready(supervisor))

        assert not any(is_running(pid) for pid in pids)

    def test_dead_node_is_left_dead(self, tmp_path, base):
        """A killed node is reported once, with its signal, and does not come back."""
        with stand_ins(tmp_path, base) as supervisor:
            supervisor.start_all()
            victim = supervisor.pids["node2"]
            os.kill(victim, signal.SIGKILL)
            deaths = eventually(supervisor.reap)

            assert deaths == [Death("node2", victim, -signal.SIGKILL)]
            assert deaths[0].describe() == f"node2 (pid {victim}) was killed by SIGKILL"
            assert supervisor.restart_due() == []
            assert list(supervisor.pids) == ["node1"]

    def test_restart_brings_it_back(self, tmp_path, base):
        """With `restart` a dead node runs again, and its pid file tells the new process."""
        with stand_ins(tmp_path, base, restart=True) as supervisor:
            supervisor.start_all()
            os.kill(supervisor.pids["node1"], signal.SIGKILL)
            eventually(supervisor.reap)

            assert eventually(supervisor.restart_due) == ["node1"]
            pid = supervisor.pids["node1"]
            assert (tmp_path / "node1" / "pid").read_text() == f"{pid}\n"

    def test_restart_delay_grows_to_a_cap(self):
        """Each early death doubles the delay, up to a limit."""
        delays = [restart_delay_s(deaths) for deaths in range(100)]

        assert delays[:4] == [0.5, 1.0, 2.0, 4.0]
        assert max(delays) == delays[-1] == RESTART_DELAY_MAX_S

    def test_kill_returns_when_it_is_gone(self, tmp_path, base):
        """`kill` is kill -9, and the process no longer runs when it returns."""
        with stand_ins(tmp_path, base) as supervisor:
            supervisor.start_all()
            death = supervisor.kill("node1")

            assert death.by_signal
            assert not is_running(death.pid)
            assert supervisor.reap() == []

    def test_stubborn_node_is_killed_after_the_grace(self, tmp_path, base):
        """A node that ignores SIGTERM does not survive, and is named."""
        with stand_ins(tmp_path, base, how="stubborn") as supervisor:
            supervisor.start_all()
            eventually(lambda: is_ready(supervisor))
            pids = list(supervisor.pids.values())

            assert sorted(supervisor.stop(grace_s=0.2)) == ["node1", "node2"]
            assert not any(is_running(pid) for pid in pids)

    def test_second_request_hurries(self, tmp_path, base):
        """Whoever asks twice does not wait for the grace."""
        with stand_ins(tmp_path, base, how="stubborn") as supervisor:
            supervisor.start_all()
            eventually(lambda: is_ready(supervisor))

            assert supervisor.stop(grace_s=3600, hurry=lambda: True)

    def test_stopped_process_ends_too(self, tmp_path, base):
        """A node that was stopped by SIGSTOP cannot outlive the cluster."""
        with stand_ins(tmp_path, base, nodes=1) as supervisor:
            supervisor.start_all()
            pid = supervisor.pids["node1"]
            os.kill(pid, signal.SIGSTOP)
            supervisor.stop(grace_s=0.2)

            assert not is_running(pid)

    def test_own_failure_is_told_with_the_log(self, tmp_path, base):
        """A node that gives up by itself is told apart from one that was killed."""
        with stand_ins(tmp_path, base, nodes=1, how="fail") as supervisor:
            supervisor.start_all()
            deaths = eventually(supervisor.reap)

            assert [death.returncode for death in deaths] == [1]
            assert not deaths[0].by_signal
            assert supervisor.last_words("node1") == "cannot go on"

    def test_unready_says_why(self, tmp_path, base):
        """The reason that a node gives is passed on."""
        with stand_ins(tmp_path, base, nodes=1, how="unready") as supervisor:
            supervisor.start_all()

            assert eventually(lambda: supervisor.unready().get("node1") == "no leader")

    @pytest.mark.skipif(sys.platform != "linux", reason="the other platforms use the pipe alone")
    @pytest.mark.parametrize("stopped", [False, True])
    def test_nodes_end_when_the_supervisor_is_killed(self, tmp_path, base, stopped):
        """kill -9 of the parent ends the children, even one that is stopped, and frees the lock."""
        parent = subprocess.Popen(
            [sys.executable, "-c", UP, str(tmp_path), str(base)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=dict(os.environ) | {"PYTHONPATH": str(Path.cwd())},
        )
        with parent:
            assert parent.stdout
            pids = [int(word) for word in parent.stdout.readline().split()]
            eventually(lambda: len(taken(cluster_ports(base, 2))) == 2)
            if stopped:
                os.kill(pids[0], signal.SIGSTOP)
            parent.kill()

        eventually(lambda: not any(is_running(pid) for pid in pids))
        with open_folder(tmp_path) as folder:
            assert folder.parameters() is not None

    def test_pipe_alone_ends_a_node(self):
        """Where the kernel does not tell, the end of the parent's pipe does."""
        source = (
            "import sys, threading\n"
            "from cluster.parent_death import _end_at_end_of_file\n"
            "threading.Thread(target=_end_at_end_of_file, args=(0,), daemon=True).start()\n"
            "print('up', flush=True); threading.Event().wait()"
        )
        with subprocess.Popen(
            [sys.executable, "-c", source], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as child:
            assert child.stdout
            assert child.stdin
            assert child.stdout.readline() == b"up\n"
            child.stdin.close()

            assert child.wait(10) == -signal.SIGTERM


class TestFolder:
    def test_new_cluster_is_recorded_privately(self, tmp_path, base):
        """What is fixed at creation is kept, readable by the owner only."""
        with stand_ins(tmp_path / "new", base) as supervisor:
            file = tmp_path / "new" / PARAMETERS_FILE
            found = json.loads(file.read_text())

            assert (found["nodes"], found["shards"]) == (2, Config.shards)
            assert found["peer_secret"] == supervisor.cluster.peer_secret
            assert stat.S_IMODE(file.stat().st_mode) == 0o600

    def test_resume_takes_what_is_recorded(self, tmp_path, base):
        """Without a number of nodes the folder's own cluster is resumed, secret included."""
        with open_folder(tmp_path) as folder:
            folder.save(Parameters(nodes=1, shards=5, peer_secret="kept"))
        with supervised(tmp_path, Shape(), port=base, environment={}) as supervisor:
            cluster = supervisor.cluster

            assert (cluster.nodes, cluster.shards, cluster.peer_secret) == (1, 5, "kept")

    @pytest.mark.parametrize("shape", [Shape(nodes=3), Shape(shards=6)])
    def test_other_shape_is_refused(self, tmp_path, base, shape):
        """A folder's cluster cannot be resumed with other numbers; the sentence says which."""
        with open_folder(tmp_path) as folder:
            folder.save(Parameters(nodes=2, shards=5, peer_secret="kept"))

        with (
            pytest.raises(CommandFailed, match=r"holds a cluster of [25] (nodes|shards), not [36]"),
            supervised(tmp_path, shape, port=base, environment={}),
        ):
            pass

    def test_another_backend_is_no_cluster(self, tmp_path, base):
        """Who asked for patterns in Postgres is told that `up` does not run that."""
        asked = {
            "RECOLLECT_BACKEND": "postgres",
            "RECOLLECT_CHECKPOINT_URL": "postgresql://host/base",
        }
        with (
            pytest.raises(CommandFailed, match="needs no cluster"),
            supervised(tmp_path, Shape(), port=base, environment=asked),
        ):
            pass

        assert not (tmp_path / PARAMETERS_FILE).exists()

    def test_foreign_files_are_left_alone(self, tmp_path, base):
        """A folder may hold other things, a stale pid file among them; only that is replaced."""
        (tmp_path / "notes.txt").write_text("mine")
        (tmp_path / "node1").mkdir()
        (tmp_path / "node1" / "pid").write_text("1\n")
        with stand_ins(tmp_path, base) as supervisor:
            supervisor.start_all()

            assert (tmp_path / "node1" / "pid").read_text() == f"{supervisor.pids['node1']}\n"
            assert sorted(p.name for p in tmp_path.glob("node*")) == ["node1", "node2"]
        assert (tmp_path / "notes.txt").read_text() == "mine"

    def test_file_in_place_of_a_node_is_refused(self, tmp_path, base):
        """A file named like a node's folder is an error that names it."""
        (tmp_path / "node1").write_text("a file")
        with (
            stand_ins(tmp_path, base) as supervisor,
            pytest.raises(CommandFailed, match="node1 cannot be used"),
        ):
            supervisor.start_all()

    def test_foreign_parameters_are_not_overwritten(self, tmp_path, base):
        """A record that is not ours stops the start and stays as it is."""
        (tmp_path / PARAMETERS_FILE).write_text("{}")
        with pytest.raises(CommandFailed, match="cannot be read"), stand_ins(tmp_path, base):
            pass

        assert (tmp_path / PARAMETERS_FILE).read_text() == "{}"

    def test_second_user_is_refused(self, tmp_path):
        """Two supervisors never share a folder; after the first has gone the second may."""
        with (
            open_folder(tmp_path),
            pytest.raises(CommandFailed, match="in use by another"),
            open_folder(tmp_path, wait_s=0),
        ):
            pass
        with open_folder(tmp_path) as folder:
            assert (folder.path / LOCK_FILE).exists()

    def test_folder_that_cannot_be_made(self, tmp_path):
        """A file in the way is one sentence, not a traceback."""
        (tmp_path / "file").touch()
        with (
            pytest.raises(CommandFailed, match="cannot be used"),
            open_folder(tmp_path / "file" / "data"),
        ):
            pass


class TestPorts:
    def test_used_port_is_refused_before_anything_starts(self, tmp_path, base):
        """A listener on any needed port is named, and the folder stays without a cluster."""
        with socket.socket() as other:
            other.bind(("127.0.0.1", base + 1002))
            other.listen()
            with (
                pytest.raises(CommandFailed, match=f"port {base + 1002} is in use"),
                stand_ins(tmp_path, base),
            ):
                pass

        assert not (tmp_path / PARAMETERS_FILE).exists()

    def test_ports_of_a_cluster(self):
        """Node k serves HTTP on P+k and peers on P+1000+k."""
        assert cluster_ports(5000, 2) == [5001, 5002, 6001, 6002]


class TestEnvironment:
    CLUSTER = LocalCluster(folder=Path("/d"), nodes=2, port=7000, shards=4, peer_secret="s")

    def test_node_can_read_its_place(self):
        """A node's settings follow from its environment alone."""
        config = Config.from_env(self.CLUSTER.environment("node2", {}))

        assert config.node_id == "node2"
        assert config.http_port == 7002
        assert config.peers() == {"node1": ("127.0.0.1", 8001), "node2": ("127.0.0.1", 8002)}
        assert config.http_peers()["node1"] == ("127.0.0.1", 7001)
        assert str(config.data_dir) == "/d/node2/data"
        assert config.shards == 4

    def test_settings_are_inherited_but_not_the_place(self):
        """The caller's key goes to all nodes; its idea of a single node does not."""
        inherited = {
            "RECOLLECT_API_KEY": "k",
            "RECOLLECT_HTTP_HOST": "0.0.0.0",
            "RECOLLECT_NODE_ID": "other",
            "RECOLLECT_DATA_DIR": "/elsewhere",
        }
        config = Config.from_env(self.CLUSTER.environment("node1", inherited))

        assert (config.api_key, config.http_host, config.node_id) == ("k", "127.0.0.1", "node1")
        assert str(config.data_dir) == "/d/node1/data"

    def test_bad_setting_is_told_before_anything_starts(self, tmp_path, base):
        """A setting that no node could read stops `up` itself."""
        with (
            pytest.raises(ValueError, match="heartbeat_ms"),
            supervised(
                tmp_path, Shape(1), port=base, environment={"RECOLLECT_HEARTBEAT_MS": "often"}
            ),
        ):
            pass

        assert not (tmp_path / PARAMETERS_FILE).exists()
