"""Kills, at random moments, whoever takes part in a checkpoint or a restoration.

`python -m tests.checkpoint_crashes --crashes 20` runs three nodes under writes and a real Postgres
that waits for its disk. In each round a checkpoint is begun, every third a full one, and at some
moment of it the coordinator, another node or all of Postgres is killed with -9 and started again;
a checkpoint that is finished sooner does not count as a round. Then
the last complete checkpoint must verify, one that lacks its end must not count, and the next one
must succeed. As often `recollect restore` is killed at some moment of its work: what is left must
be no cluster to `recollect up`, and the next restoration into the same folder must succeed. At the
end the writes stop, and a cluster restored from a last checkpoint must have the hashes of this one.

With --data DIR the points are the vectors of DIR; otherwise they are drawn.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import asyncpg
import numpy as np
from rich.console import Console
from rich.table import Table

from cluster.data_folder import DRAFT, PARAMETERS_FILE
from storage.embedded_postgres import EmbeddedPostgres
from tests.helpers import Cluster, eventually, running_cluster
from tests.postgres import kill_9

COORDINATOR: Final = "the coordinator"
POSTGRES: Final = "Postgres"
VICTIMS: Final = ("another node", COORDINATOR, POSTGRES)
FULL_EACH: Final = 3
NEXT_S: Final = 180.0
BATCH: Final = 200
POINTS: Final = "/collections/crashes/points"


class Writer:
    """Writes and deletes points through any node that answers, as fast as it gets answers."""

    def __init__(self, cluster: Cluster, vectors: np.ndarray, seed: int) -> None:
        self.acknowledged = 0
        self._cluster, self._vectors = cluster, vectors
        self._rng = random.Random(seed)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def fill(self) -> None:
        """Store all points once."""
        for first in range(0, len(self._vectors), BATCH):
            rows = range(first, min(first + BATCH, len(self._vectors)))
            eventually(partial(self._sent, rows), 60, "a batch is stored")

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Write while the block runs."""
        self._thread.start()
        try:
            yield
        finally:
            self._over.set()
            self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(0.02):
            chosen = [self._rng.randrange(len(self._vectors)) for _ in range(20)]
            if self._rng.random() < 0.2:
                self._call("POST", f"{POINTS}/delete?wait=true", {"points": chosen})
            else:
                self._sent(chosen)

    def _sent(self, rows: Any) -> bool:
        stamp = self.acknowledged
        points = [
            {"id": row, "vector": self._vectors[row].tolist(), "payload": {"stamp": stamp}}
            for row in rows
        ]
        return self._call("PUT", f"{POINTS}?wait=true", {"points": points})

    def _call(self, method: str, path: str, body: Any) -> bool:
        node = self._rng.randint(1, self._cluster.nodes)
        with contextlib.suppress(OSError):
            if self._cluster.call(method, path, body, node=node).status == 200:
                self.acknowledged += 1
                return True
        return False


@dataclass
class Crashes:
    """A cluster, its Postgres, and what was done to them."""

    cluster: Cluster
    server: EmbeddedPostgres
    rng: random.Random
    folder: Path
    tell: Callable[[str], None]
    seconds: dict[str, float] = field(
        default_factory=lambda: {"full": 2.0, "increment": 0.5, "restore": 2.0}
    )
    """How long each takes at most, as far as is known: moments are drawn from that."""
    tally: Counter[str] = field(default_factory=Counter)

    def checkpoint(self) -> dict[str, Any]:
        """Make a checkpoint; return what the command says."""

        deadline_s = time.monotonic() + NEXT_S
        while True:
            code, said = self.command("checkpoint", "--url", self.cluster.url(self._any_node()))
            if code == 0 and said["state"] == "finished":
                return said
            assert time.monotonic() < deadline_s, f"no checkpoint succeeds: {said}"

    def verified(self, number: int) -> None:
        """Prove a checkpoint."""
        code, said = self.command("verify", "--checkpoint", str(number))
        assert (code, said["proved"]) == (0, True), said

    def crash_in_checkpoint(self, round_: int) -> None:
        """Kill somebody at a random moment of a checkpoint."""
        kind = "full" if round_ % FULL_EACH == 0 else "increment"
        victim = self.rng.choice(VICTIMS)
        last, delay_s = self._killed_at_work(kind, victim)
        found = self._finished()
        self.verified(found)
        self._refused_while_unfinished(found)
        made = self.checkpoint()
        assert made["id"] > last, "the next one succeeds"
        self.verified(made["id"])
        assert self._listed()[0]["id"] >= made["id"]
        what = "interrupted" if found == last else "finished all the same"
        self.tally[f"checkpoint, {kind}, {victim}: {what}"] += 1
        self.tell(f"{kind} checkpoint, {victim} killed after {delay_s:.2f} s: {what}")

    def _refused_while_unfinished(self, found: int) -> None:
        """Check that a checkpoint after `found` that lacks its end does not verify.

        It may still be under way, when the one that was killed is not its coordinator: what counts
        is one that is unfinished after it was looked at.
        """
        for number in (int(row["id"]) for row in self._query(_UNFINISHED, found)[-1:]):
            code, _ = self.command("verify", "--checkpoint", str(number))
            left = {int(row["id"]) for row in self._query(_UNFINISHED, found)}
            assert code == 1 or number not in left, "a checkpoint that is not whole is refused"

    def _killed_at_work(self, kind: str, victim: str) -> tuple[int, float]:
        """Begin checkpoints until one is under way when the victim is killed.

        Returns the last one that was finished before the kill, and the seconds until it.
        """
        while True:
            if kind == "full":
                self._query(_DISOWN, str(self.rng.getrandbits(60)))
            last, node = self._finished(), self._node_of(victim)
            asking = threading.Thread(target=self._ask)
            delay_s = self.rng.random() * self.seconds[kind]
            began_s = time.monotonic()
            asking.start()
            time.sleep(delay_s)
            is_late = self._finished() > last
            if not is_late:
                self._kill(node)
            asking.join()
            if not is_late:
                return last, delay_s
            self.seconds[kind] = time.monotonic() - began_s

    def crash_in_restore(self, round_: int) -> None:
        """Kill `recollect restore` at a random moment of it, and do it again."""
        number, folder = self._finished(), self.folder / f"restored-{round_}"
        words = ["restore", "--checkpoint", str(number), "--data", str(folder), "--into"]
        draft = folder / DRAFT
        while True:
            process = self._start(*words, str(self.rng.randint(1, 5)))
            eventually(partial(_is_at_work, process, draft), 60, "the restoration at work")
            began_s, delay_s = time.monotonic(), self.rng.random() * self.seconds["restore"]
            try:
                process.communicate(timeout=delay_s)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                if draft.exists():
                    break
                # It had come to its end, and only its process had not.
                assert (folder / PARAMETERS_FILE).exists()
            else:
                assert process.returncode == 0, "a restoration that nobody disturbs succeeds"
                self.seconds["restore"] = time.monotonic() - began_s
            shutil.rmtree(folder)
        left = sorted(each.name for each in folder.iterdir())
        code, said = self.command("up", "--data", str(folder))
        assert (code, said["error"]["code"]) == (1, "unfinished_restoration")
        code, said = self.command(*words, str(self.rng.randint(1, 5)))
        assert code == 0, said
        assert not draft.exists()
        shutil.rmtree(folder)
        self.tally["restore"] += 1
        self.tell(f"restore killed after {delay_s:.2f} s: it left {', '.join(left)}")

    def judge(self) -> None:
        """Restore what there is now, start it, and compare."""
        made = self.checkpoint()
        folder = self.folder / "last"
        number = str(made["id"])
        nodes = self.rng.choice((1, 3, 5))
        code, said = self.command(
            "restore", "--checkpoint", number, "--into", str(nodes), "--data", str(folder)
        )
        assert code == 0, said
        for url in (self.cluster.url(), ""):
            with contextlib.ExitStack() as stack:
                copy = None if url else stack.enter_context(
                    running_cluster(
                        self.folder, nodes=nodes, folder=folder, env=self.cluster.environment
                    )
                )  # fmt: skip
                words = ("verify", "--checkpoint", number, "--url", copy.url() if copy else url)
                code, said = self.command(*words)
                assert code == 0, said
                assert {shard["live"] for shard in said["shards"]} == {"equal"}, said
        self.tell(f"restored into {nodes} nodes: every shard is equal")

    def command(self, *words: str) -> tuple[int, dict[str, Any]]:
        """Run the command line; return its exit code, and what it says."""
        process = self._start(*words)
        out, _ = process.communicate(timeout=NEXT_S)
        return process.returncode, json.loads(out)

    def _start(self, *words: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "cluster.cli", *words, "--json"],
            env=self.cluster.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def _ask(self) -> None:
        with contextlib.suppress(OSError):
            self.cluster.call("POST", "/cluster/checkpoint", {}, node=self._any_node())

    def _any_node(self) -> int:
        return self.rng.randint(1, self.cluster.nodes)

    def _node_of(self, victim: str) -> int:
        """Return the number of a victim's node; 0: it is Postgres."""
        if victim == POSTGRES:
            return 0
        leader = self.cluster.call("GET", "/cluster").result["metadata"]["leader"]
        numbers = range(1, self.cluster.nodes + 1)
        is_leader = victim == COORDINATOR
        return self.rng.choice([k for k in numbers if (f"node{k}" == leader) == is_leader])

    def _kill(self, node: int) -> None:
        if node:
            self.cluster.kill(node)
            self.cluster.restart(node)
        else:
            kill_9(self.server)
            self.server.start()

    def _listed(self) -> list[dict[str, Any]]:
        def found() -> list[dict[str, Any]]:
            answer = self.cluster.call("GET", "/cluster/checkpoints", node=self._any_node())
            return answer.body["result"]["checkpoints"] if answer.status == 200 else []

        return eventually(found, 30, "a list of checkpoints")

    def _finished(self) -> int:
        return int(self._query(_FINISHED)[0]["id"])

    def _query(self, query: str, *arguments: Any) -> Any:
        async def run() -> Any:
            connection = await asyncpg.connect(self.server.url)
            try:
                return await connection.fetch(query, *arguments)
            finally:
                await connection.close()

        return asyncio.run(run())


_DISOWN: Final = """
WITH known AS (
  UPDATE clusters SET cluster_id = left(cluster_id, 40) || '-' || $1 RETURNING cluster, cluster_id
)
UPDATE checkpoints c SET cluster_id = known.cluster_id FROM known WHERE known.cluster = c.cluster
"""
"""What is there belongs to other clusters from now on, so this one's next checkpoint is a full one.
"""
_FINISHED: Final = """
SELECT id FROM checkpoints WHERE finished_at IS NOT NULL ORDER BY id DESC LIMIT 1
"""
_UNFINISHED: Final = "SELECT id FROM checkpoints WHERE finished_at IS NULL AND id > $1 ORDER BY id"


def _is_at_work(process: subprocess.Popen[bytes], draft: Path) -> bool:
    return draft.exists() or process.poll() is not None


def run(
    folder: Path, vectors: np.ndarray, crashes: int, seed: int, tell: Callable[[str], None]
) -> Counter[str]:
    """Do it all; returns what was done. Raises AssertionError when a promise was broken."""
    rng = random.Random(seed)
    folder.chmod(0o755)
    server = EmbeddedPostgres(folder / "postgres")
    server.start()
    try:
        environment = {
            "RECOLLECT_CHECKPOINT_URL": server.url,
            "RECOLLECT_CHECKPOINT_INTERVAL_S": "0",
        }
        with running_cluster(folder, env=environment) as cluster:
            body = {"vectors": {"size": vectors.shape[1], "distance": "Cosine"}}
            cluster.call("PUT", "/collections/crashes", body).result  # noqa: B018
            made = Crashes(cluster, server, rng, folder, tell)
            writer = Writer(cluster, vectors, seed)
            try:
                writer.fill()
                made.checkpoint()
                with writer.at_work():
                    for round_ in range(crashes):
                        made.crash_in_checkpoint(round_)
                        made.crash_in_restore(round_)
                tell(f"{writer.acknowledged} writes were acknowledged meanwhile")
                made.judge()
            except AssertionError as error:
                raise AssertionError(f"{error}\n{cluster.logs()}") from error
            return made.tally
    finally:
        server.stop()


def drawn(rows: int, dimension: int, seed: int) -> np.ndarray:
    """Return random vectors."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((rows, dimension)).astype(np.float32)


def main() -> None:
    """Run, print, and end with 1 when something was wrong."""
    parser = argparse.ArgumentParser(prog="tests.checkpoint_crashes", description=__doc__)
    parser.add_argument("--data", type=Path, help="folder of vectors.f16.npy")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--crashes", type=int, default=20, help="of each, checkpoints and restores")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    options = parser.parse_args()
    if options.data:
        vectors = np.load(options.data / "vectors.f16.npy")[: options.rows].astype(np.float32)
    else:
        vectors = drawn(options.rows, 32, options.seed)
    console, began_s = Console(highlight=False, soft_wrap=True), time.monotonic()

    def tell(text: str) -> None:
        console.print(f"{time.monotonic() - began_s:6.0f} s  {text}")

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    tell(f"seed {options.seed}")
    with tempfile.TemporaryDirectory(prefix="recollect-crashes-") as folder:
        tally = run(Path(folder), vectors, options.crashes, options.seed, tell)
    table = Table(title=f"crashes of checkpoints and restorations, seed {options.seed}")
    table.add_column("what")
    table.add_column("times", justify="right")
    for what, times in sorted(tally.items()):
        table.add_row(what, str(times))
    console.print(table)


if __name__ == "__main__":
    main()
