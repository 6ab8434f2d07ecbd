"""The command line against a stand-in for a node that notes what it was asked. What a whole
cluster does with these requests is tested in tests/system."""

import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest

from cluster.cli import app, run
from cluster.client import Client
from cluster.commands.config import settings
from cluster.commands.serve import exposure, refuse_optimized
from cluster.commands.shards import agreement
from cluster.commands.store import parse_lines
from cluster.config import Config
from cluster.errors import CommandFailed
from tests.stand_in_node import stand_in_node

KEY = "sesame-open-9"
COMMANDS = sorted(c.callback.__name__ for c in app.registered_commands if c.callback)
CLUSTER = {
    "cluster_id": "c1",
    "node": "node1",
    "epoch": 1,
    "nodes": [
        {"name": "node1", "http": "h1", "peer": "p1", "alive": True, "leads": 2, "replicas": 2},
        {"name": "node2", "http": "h2", "peer": "p2", "alive": False, "leads": 0, "replicas": 2},
    ],
    "shards": [
        {
            "shard": 0,
            "leader": "node1",
            "term": 3,
            "replicas": [
                {"node": "node1", "applied_index": 9, "state_hash": "aa", "role": "leader"},
                {"node": "node2", "applied_index": None, "state_hash": None, "role": None},
            ],
        },
        {"shard": 1, "leader": None, "term": 3, "replicas": []},
    ],
}


@pytest.fixture
def node():
    with stand_in_node() as server:
        yield server


@pytest.fixture
def recollect(capsys, monkeypatch):
    """Runs a command line; gives code, out and err, and sees that nothing ugly is printed."""
    for name in list(os.environ):
        if name.startswith("RECOLLECT_") or name in {"NODE_ID", "CLUSTER_NODES"}:
            monkeypatch.delenv(name)

    def call(*words):
        code = run([str(word) for word in words])
        shown = capsys.readouterr()
        assert "Traceback" not in shown.out + shown.err
        assert KEY not in shown.out + shown.err
        return SimpleNamespace(code=code, out=shown.out, err=shown.err)

    return call


class TestTheWhole:
    def test_help_loads_nothing_heavy(self):
        """Help comes at once, because what only a node or the demo needs is not imported."""
        heavy = ["numpy", "aiohttp", "hnswlib", "pysyncobj", "tokenizers", "asyncio"]
        source = (
            "import sys; from cluster.cli import run; run(['--help']);"
            f"print([name for name in {heavy} if name in sys.modules])"
        )
        shown = subprocess.run(
            [sys.executable, "-c", source], capture_output=True, text=True, check=True
        )

        assert shown.stdout.splitlines()[-1] == "[]"

    @pytest.mark.parametrize("command", COMMANDS)
    def test_every_command_explains_itself(self, recollect, command):
        """Each command's help ends with a way to use it."""
        shown = recollect(command, "--help")

        assert shown.code == 0
        assert "Example" in shown.out
        assert f"recollect {command}" in shown.out

    def test_commands(self):
        """The commands are those that the documents name."""
        assert COMMANDS == [
            "checkpoint",
            "config",
            "demo",
            "nodes",
            "restore",
            "search",
            "serve",
            "shards",
            "status",
            "store",
            "up",
            "verify",
            "version",
        ]

    @pytest.mark.parametrize(
        "words",
        [("nonsense",), ("up", "--nodes", "0"), ("search",), ("store", "--nonsense"), ("store",)],
    )
    def test_wrong_command_line_is_code_2(self, recollect, words):
        """A mistake in the command line is one sentence, a hint and code 2."""
        shown = recollect(*words)

        assert shown.code == 2
        assert shown.out == ""
        assert [line.partition(":")[0] for line in shown.err.splitlines()] == ["Error", "Hint"]

    def test_wrong_command_line_as_json(self, recollect):
        """With --json a usage error is one document on stdout."""
        shown = recollect("up", "--nodes", "many", "--json")

        assert shown.code == 2
        assert json.loads(shown.out)["error"]["code"] == "usage"
        assert shown.err == ""

    def test_version_twice(self, recollect):
        """`recollect version` and `recollect --version` tell the same version."""
        told = json.loads(recollect("version", "--json").out)["recollect"]

        assert recollect("--version").out == f"recollect {told}\n"
        assert recollect("version").out.startswith(f"recollect {told} ")

    def test_reader_that_goes_away(self):
        """A closed pipe ends a command without a complaint."""
        source = "import sys; from cluster.cli import main; sys.argv[1:] = ['config']; main()"
        with subprocess.Popen(
            [sys.executable, "-c", source], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as child:
            assert child.stdout
            assert child.stderr
            child.stdout.close()

            assert child.stderr.read() == b""

    def test_bug_is_a_sentence(self, recollect, node):
        """Even an answer of an unknown shape ends in a sentence and code 1."""
        node.answer("GET", "/cluster", (200, []))
        shown = recollect("nodes", "--url", node.url)

        assert shown.code == 1
        assert "should not have happened" in shown.err


class TestTalking:
    def test_nobody_answers(self, recollect, node):
        """A node that is not there is told with what to do."""
        shown = recollect("status", "--url", "http://127.0.0.1:1", "--api-key", KEY)

        assert shown.code == 1
        assert shown.err.splitlines()[0] == (
            "Error: no answer from http://127.0.0.1:1 (connection refused)"
        )
        assert "recollect up" in shown.err

    @pytest.mark.parametrize("url", ["ftp://h", "http://", "http://h:port", "http://h:99999"])
    def test_url_that_is_none(self, recollect, url):
        """A malformed URL is refused before anything is sent."""
        shown = recollect("status", "--url", url)

        assert shown.code == 1
        assert url in shown.err

    def test_password_in_url_is_not_shown(self):
        """What stands before the @ of a URL stays out of messages."""
        with Client(f"http://user:{KEY}@127.0.0.1:1") as client:
            with pytest.raises(CommandFailed) as caught:
                client.get("/")

            assert KEY not in caught.value.message

    def test_key_is_sent_and_never_shown(self, recollect, node, monkeypatch):
        """The key of the option or the variable goes into the header alone."""
        monkeypatch.setenv("RECOLLECT_API_KEY", KEY)
        node.answer("GET", "/cluster", (401, {"code": "unauthorized", "sentence": "no key"}))
        shown = recollect("nodes", "--url", node.url)

        assert node.asked[0][3]["api-key"] == KEY
        assert shown.err.splitlines() == [
            "Error: no key",
            "Hint: set RECOLLECT_API_KEY, or pass --api-key",
        ]
        assert KEY not in recollect("nodes", "--help").out

    def test_refusal_as_json(self, recollect, node):
        """A refusal's code, field and retryability reach a program."""
        refusal = {"code": "bad_request", "field": "k", "sentence": "too many", "retryable": False}
        node.answer("POST", "/patterns/search", (400, refusal))
        shown = recollect("search", "x", "--json", "--url", node.url)

        assert shown.code == 1
        assert json.loads(shown.out) == {
            "error": {
                "code": "bad_request",
                "message": "k: too many",
                "hint": None,
                "retryable": False,
            }
        }

    def test_foreign_server(self, recollect, node):
        """A server that is no node is recognised."""
        node.answer("GET", "/cluster", (200, None))
        with Client(node.url) as client:
            assert client.get("/cluster") is None
        shown = recollect("nodes", "--url", f"{node.url}/elsewhere")

        assert shown.code == 1
        assert node.asked[-1][1] == "/elsewhere/cluster"


class TestLooking:
    def test_nodes(self, recollect, node):
        """A node that is down is listed as down, not left out."""
        node.answer("GET", "/cluster", (200, CLUSTER))
        shown = recollect("nodes", "--url", node.url)

        assert shown.code == 0
        assert "node2" in shown.out
        assert "DOWN" in shown.out
        assert json.loads(recollect("nodes", "--json", "--url", node.url).out) == CLUSTER["nodes"]

    def test_shards(self, recollect, node):
        """Each shard is listed with leader and the place of each replica."""
        node.answer("GET", "/cluster", (200, CLUSTER))
        shown = recollect("shards", "--url", node.url)

        assert shown.code == 0
        assert "node1@9, node2@?" in shown.out
        assert json.loads(recollect("shards", "--json", "--url", node.url).out) == CLUSTER["shards"]

    def test_status(self, recollect, node):
        """The status has nodes, shards without a leader and the collections' counts."""
        info = {
            "status": "green",
            "points_count": 1234,
            "config": {"params": {"vectors": {"size": 256, "distance": "Cosine"}}},
        }
        node.answer("GET", "/readyz", (200, {}))
        node.answer("GET", "/cluster", (200, CLUSTER))
        listed = [{"name": "a"}, {"name": "dropped"}]
        node.answer("GET", "/collections", (200, {"collections": listed}))
        node.answer("GET", "/collections/a", (200, info))
        node.answer("GET", "/collections/dropped", (404, {"code": "collection_not_found"}))
        shown = recollect("status", "--url", node.url)

        assert shown.code == 0
        assert "Nodes: 1 of 2 up" in shown.out
        assert "without a leader: 1" in shown.out
        assert "1,234" in shown.out
        told = json.loads(recollect("status", "--json", "--url", node.url).out)
        assert [row["name"] for row in told["collections"]] == ["a"]

    def test_status_of_a_node_that_is_not_ready(self, recollect, node):
        """Not ready is code 1 with the node's own reason."""
        node.answer("GET", "/readyz", (503, {"code": "not_ready", "sentence": "shard 3 has none"}))
        shown = recollect("status", "--url", node.url)

        assert shown.code == 1
        assert "shard 3 has none" in shown.err

    @pytest.mark.parametrize(
        ("replicas", "expected"),
        [
            ([(9, "a"), (9, "a"), (9, "a")], "equal"),
            ([(9, "a"), (8, "b"), (9, "a")], "catching up"),
            ([(9, "a"), (9, "b"), (8, "a")], "DIFFERENT"),
            ([(9, "a"), (None, None), (9, "a")], "missing"),
            ([(9, "a"), (9, None), (9, "a")], "catching up"),
        ],
    )
    def test_agreement(self, replicas, expected):
        """Replicas are compared at equal index only."""
        rows = [{"applied_index": index, "state_hash": digest} for index, digest in replicas]

        assert agreement(rows) == expected


class TestStore:
    PATH = "/patterns/store"

    def test_one(self, recollect, node):
        """A text and its options become one pattern with an id."""
        node.answer("POST", self.PATH, (200, {"id": "i", "version": 7}))
        shown = recollect(
            "store",
            "try again",
            "--reward",
            "0.5",
            "--failure",
            "--session",
            "s",
            "--url",
            node.url,
        )
        (sent,) = node.bodies(self.PATH)

        assert shown.out == "Stored i (version 7)\n"
        assert len(sent.pop("id")) == 36
        assert sent == {"task": "try again", "reward": 0.5, "success": False, "sessionId": "s"}

    def test_file(self, recollect, node, tmp_path):
        """Lines are texts or objects; a line's own fields win over the options."""
        file = tmp_path / "lines"
        file.write_text('"one"\n\n{"task": "two", "reward": 1}\n')
        node.answer("POST", self.PATH, (200, {"id": "i", "version": 7}))
        shown = recollect("store", "--file", file, "--reward", "0.5", "--url", node.url)
        sent = sorted((body["task"], body["reward"]) for body in node.bodies(self.PATH))

        assert shown.out == "Stored 2 memories\n"
        assert shown.err == ""
        assert sent == [("one", 0.5), ("two", 1)]

    def test_stdin(self, recollect, node, monkeypatch):
        """`-` reads the lines from stdin; --json lists every id and version."""
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b'"one"\n"two"')))
        node.answer("POST", self.PATH, (200, {"id": "i", "version": 7}))
        shown = recollect("store", "-", "--json", "--url", node.url)

        assert json.loads(shown.out) == [{"id": "i", "version": 7}] * 2

    @pytest.mark.parametrize("line", ["{", "3", '{"task": 3}', '{"output": "x"}', "[]"])
    def test_bad_line_stores_nothing(self, recollect, node, tmp_path, line):
        """A bad line is named, and not even the good ones before it are sent."""
        file = tmp_path / "lines"
        file.write_text(f'"good"\n{line}\n')
        shown = recollect("store", "--file", file, "--url", node.url)

        assert shown.code == 1
        assert "line 2 is" in shown.err
        assert "nothing was stored" in shown.err
        assert node.asked == []

    def test_missing_file(self, recollect, tmp_path):
        """A file that is not there is a sentence."""
        shown = recollect("store", "--file", tmp_path / "absent")

        assert shown.code == 1
        assert "absent" in shown.err

    def test_retry_sends_the_same_id(self, recollect, node):
        """After a retryable refusal the same memory is sent again under the same id."""
        refusal = {"code": "outcome_unknown", "retryable": True}
        node.answer("POST", self.PATH, (503, refusal), (200, {"id": "i", "version": 7}))
        shown = recollect("store", "x", "--url", node.url)
        first, second = node.bodies(self.PATH)

        assert shown.code == 0
        assert first == second

    def test_refusal_among_many(self, recollect, node, tmp_path):
        """When one of many is refused, the message says how many are stored."""
        file = tmp_path / "lines"
        file.write_text('"one"\n"two"\n')
        refusal = {"code": "bad_request", "sentence": "no"}
        node.answer("POST", self.PATH, (200, {"id": "i", "version": 7}), (400, refusal))
        shown = recollect("store", "--file", file, "--url", node.url)

        assert shown.code == 1
        assert "no (1 of 2 memories are stored)" in shown.err

    def test_empty_file(self, recollect, node, tmp_path):
        """Nothing to store is not a failure."""
        file = tmp_path / "lines"
        file.touch()

        assert recollect("store", "--file", file).out == "Stored 0 memories\n"

    def test_lines_keep_their_order(self):
        """Memories come in the order of their lines."""
        lines = b"\n".join(b'"%d"' % number for number in range(20))

        assert [m["task"] for m in parse_lines(lines, {})] == [str(n) for n in range(20)]


class TestSearch:
    def test_patterns(self, recollect, node):
        """Patterns are searched by their task."""
        hit = {"id": "i", "score": 0.75, "task": "first line\nsecond"}
        node.answer("POST", "/patterns/search", (200, [hit]))
        shown = recollect("search", "words", "-k", "2", "--url", node.url)

        assert node.bodies("/patterns/search") == [{"task": "words", "k": 2}]
        assert "0.750" in shown.out
        assert "first line" in shown.out
        assert "second" not in shown.out

    def test_other_collection_with_filter(self, recollect, node):
        """Other collections are searched by text, with a filter if there is one."""
        hit = {"id": 3, "score": 1.0, "payload": {"text": "found"}}
        node.answer("POST", "/vectors/search", (200, [hit]))
        condition = {"must": [{"key": "kind", "match": {"value": "a"}}]}
        shown = recollect(
            "search", "words", "--collection", "docs", "--filter", json.dumps(condition),
            "--threshold", "0.5", "--url", node.url,
        )  # fmt: skip

        assert node.bodies("/vectors/search") == [
            {"query": "words", "collection": "docs", "k": 5, "filter": condition, "threshold": 0.5}
        ]
        assert "found" in shown.out

    def test_nothing_found(self, recollect, node):
        """No hit is said in words, and is an empty list for programs."""
        node.answer("POST", "/patterns/search", (200, []))

        assert recollect("search", "x", "--url", node.url).out == "Nothing was found\n"
        assert json.loads(recollect("search", "x", "--json", "--url", node.url).out) == []

    @pytest.mark.parametrize("text", ["{", "[]", "3"])
    def test_filter_that_is_none(self, recollect, text):
        """A filter that is not a JSON object is a mistake in the command line."""
        assert recollect("search", "x", "--filter", text).code == 2

    def test_stored_text_cannot_steer_the_terminal(self, recollect, node):
        """Escape sequences and markup in a memory are shown as text."""
        hit = {"id": "i", "score": 0.5, "task": "\x1b[31mred\x07 [bold]not bold[/bold]"}
        node.answer("POST", "/patterns/search", (200, [hit]))
        shown = recollect("search", "x", "--url", node.url)

        assert "\x1b" not in shown.out
        assert "\x07" not in shown.out
        assert "[bold]not bold[/bold]" in shown.out


class TestConfig:
    def test_values_and_sources(self, recollect, monkeypatch):
        """A value from the environment is shown beside its default."""
        monkeypatch.setenv("RECOLLECT_SHARDS", "24")
        rows = {row["name"]: row for row in json.loads(recollect("config", "--json").out)}

        assert (rows["shards"]["value"], rows["shards"]["default"]) == (24, 12)
        assert "RECOLLECT_SHARDS" in recollect("config").out

    def test_secrets_are_masked(self, recollect, monkeypatch):
        """Secrets are only said to be set."""
        names = ("RECOLLECT_API_KEY", "RECOLLECT_PEER_SECRET", "RECOLLECT_EMBEDDING_API_KEY")
        for name in names:
            monkeypatch.setenv(name, KEY)
        rows = json.loads(recollect("config", "--json").out)
        recollect("config")

        assert [row["variable"] for row in rows if row["value"] == "(set)"] == list(names)

    def test_bad_value_is_code_2(self, recollect, monkeypatch):
        """A setting that cannot be read is named."""
        monkeypatch.setenv("RECOLLECT_SHARDS", "dozen")
        shown = recollect("config")

        assert shown.code == 2
        assert "shards" in shown.err

    def test_every_setting_is_shown(self):
        """No field of the settings is left out, and each has a meaning."""
        rows = settings(Config())

        assert [row["name"] for row in rows] == list(Config.__dataclass_fields__)
        assert all(row["help"] for row in rows)


class TestServe:
    @pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "db.example.org", ""])
    @pytest.mark.parametrize("which", ["http_host", "peer_host"])
    def test_exposed_address_needs_key_and_secret(self, host, which):
        """An address that others reach is refused unless both secrets are set or it was asked."""
        open_config = Config(**{which: host})

        assert "RECOLLECT_API_KEY and RECOLLECT_PEER_SECRET are not" in exposure(open_config)
        assert "RECOLLECT_PEER_SECRET is not" in exposure(replace(open_config, api_key=KEY))
        assert exposure(replace(open_config, api_key=KEY, peer_secret=KEY)) == ""
        assert exposure(replace(open_config, insecure=True)) == ""

    @pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost"])
    def test_loopback_needs_nothing(self, host):
        """On loopback a node runs without secrets."""
        assert exposure(Config(http_host=host, peer_host=host)) == ""

    def test_a_server_of_patterns_has_no_peers(self):
        """Over Postgres only the HTTP address matters, and only the key guards it."""
        config = Config(backend="postgres", checkpoint_url="postgresql://", peer_host="0.0.0.0")

        assert exposure(config) == ""
        assert "RECOLLECT_API_KEY is not" in exposure(replace(config, http_host="0.0.0.0"))
        assert exposure(replace(config, http_host="0.0.0.0", api_key=KEY)) == ""

    @pytest.mark.parametrize(
        ("values", "named"),
        [({"backend": "mysql"}, "backend"), ({"backend": "postgres"}, "checkpoint_url")],
    )
    def test_a_backend_is_one_that_is_there(self, values, named):
        """It has a name that is known, and Postgres a place."""
        with pytest.raises(ValueError, match=f"^{named} "):
            Config(**values)

    def test_refusal_is_code_1(self, recollect):
        """The command itself refuses, before it opens anything."""
        shown = recollect("serve", "--http-host", "0.0.0.0")

        assert shown.code == 1
        assert "--insecure" in shown.err

    def test_bad_setting_is_code_2(self, recollect):
        """A node that its own list of nodes does not name is a mistake in the command line."""
        shown = recollect("serve", "--node-id", "node7")

        assert shown.code == 2
        assert "cluster_nodes" in shown.err

    def test_optimized_interpreter_is_refused(self):
        """Without assertions nothing is served."""
        with pytest.raises(CommandFailed, match="python -O"):
            refuse_optimized(1)
        shown = subprocess.run(
            [sys.executable, "-O", "-m", "cluster.cli", "serve"],
            capture_output=True,
            text=True,
            check=False,
        )

        assert shown.returncode == 1
        assert shown.stderr.startswith("Error: a node does not run under python -O")

    def test_parent_that_is_gone(self):
        """A node whose parent ended before it started ends at once."""
        shown = subprocess.run(
            [sys.executable, "-m", "cluster.cli", "serve", "--parent-pid", "1"],
            capture_output=True,
            check=False,
        )

        assert shown.returncode == 1


@pytest.mark.parametrize("number", ["nan", "inf", "-inf"])
def test_a_reward_that_is_no_number_is_refused(number, capsys):
    """JSON has no NaN: storing null in its place would be silent."""
    assert run(["store", "x", "--reward", number]) == 2
    assert "finite" in capsys.readouterr().err
