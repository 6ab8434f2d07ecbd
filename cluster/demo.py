"""`recollect demo`: real texts, real processes, a real kill, and a check of every promise.

The story in order: start three nodes, collect texts, store, search, kill the node that leads the
most shards while a client writes, search without it, bring it back, compare the replicas, look
for every acknowledged write on every node; write a checkpoint into Postgres, end the nodes, restore
it into two new ones and compare. Every number that it prints was measured in this run.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from cluster.client import Client
from cluster.demo_check import busiest_leader, differing_shards, lost
from cluster.demo_corpus import Docstring, docstrings, source_files, standard_library
from cluster.demo_failover import SteadyWriter, longest_pause_s
from cluster.demo_load import Payload, create_collection, patiently, store_all
from cluster.demo_restore import Move, Moved
from cluster.demo_search import QUESTIONS, Found, ask, ask_in_words, is_indexed, median_ms
from cluster.demo_stage import CONVERGED_S, READY_S, REQUEST_TIMEOUT_S, Voice, until
from cluster.errors import CommandFailed
from cluster.ports import free_base
from cluster.postgres_child import postgres_of, running_postgres
from cluster.supervisor import Shape, Supervisor, supervised

NODES: Final = 3
WRITER_TIMEOUT_S: Final = 2.0
RECOVERED_S: Final = 30.0
ACKS_BEFORE: Final = 50
ACKS_AFTER: Final = 100
TIMED_SEARCHES: Final = 200
WRITERS: Final = 4
EMBED_BATCH: Final = 1000
# The demo embeds with the bundled model, and so have its nodes to; it checkpoints when it says so.
NOT_INHERITED: Final = ("RECOLLECT_EMBEDDING_", "RECOLLECT_CHECKPOINT")
OWN: Final = {"RECOLLECT_CHECKPOINT_INTERVAL_S": "0"}

Answers = tuple[list[Found], list[Found]]
"""What was found for a question without and with its filter."""


@dataclass
class Summary:
    """What was measured. `lost` counts acknowledged writes that some node does not have.

    `moved` is None when the last part was skipped.
    """

    texts: int = 0
    writes_per_s: float = 0.0
    search_p50_ms: float = 0.0
    killed: str = ""
    pause_s: float = 0.0
    acknowledged: int = 0
    lost: int = 0
    moved: Moved | None = None
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return the numbers by name."""
        return asdict(self)


@contextmanager
def prepared(
    data: Path, port: int | None, environment: Mapping[str, str], voice: Voice
) -> Iterator[Demo]:
    """Prepare the demo's cluster in a folder that holds none yet, and its Postgres if possible.

    Raises:
        CommandFailed: the folder holds a cluster, or a port is in use.
    """
    if (data / "recollect.json").exists():
        raise CommandFailed(
            f"{data} holds a cluster already", hint="choose a new folder with --data"
        )
    base = free_base(NODES, random.Random()) if port is None else port
    own = {name: text for name, text in environment.items() if not name.startswith(NOT_INHERITED)}
    own |= OWN
    with (
        supervised(data, Shape(NODES), port=base, environment=own) as supervisor,
        ExitStack() as stack,
    ):
        demo = Demo(supervisor, voice, own)
        try:
            server = postgres_of(supervisor)
        except CommandFailed as failure:
            demo.obstacle = f"{failure.message} ({failure.hint})"
        else:
            stack.enter_context(running_postgres(server))
            demo.postgres_url = server.url
        yield demo


class Demo:
    """One run. `run` calls the steps in order; each leaves what the next ones need."""

    def __init__(
        self, supervisor: Supervisor, voice: Voice, environment: Mapping[str, str]
    ) -> None:
        self._supervisor = supervisor
        self._voice = voice
        self._environment = environment
        self.postgres_url = ""
        self.obstacle = ""
        """Why there is no Postgres."""
        self._names = supervisor.cluster.names
        self._vectors: list[Any] = []
        self._questions: list[list[float]] = []
        self._answers: list[Answers] = []
        self._acknowledged: dict[int, Payload] = {}
        self.summary = Summary()

    def run(self) -> Summary:
        """Do all steps and return what was measured.

        Raises:
            CommandFailed: a step did not end as promised. Lost writes are in the summary only.
        """
        started_s = time.monotonic()
        self._supervisor.start_all()
        texts = self._collect()
        self._embed(texts)
        self._await_ready()
        self._store(texts)
        self._search()
        self._time_searches()
        self._survive_a_kill()
        self._compare_replicas()
        self._verify()
        self._move()
        self.summary.seconds = time.monotonic() - started_s
        return self.summary

    def _collect(self) -> list[Docstring]:
        root = standard_library()
        files = source_files(root)
        texts: list[Docstring] = []
        with self._voice.progress("Collecting texts", len(files)) as advance:
            for found in docstrings(root, files):
                texts += found
                advance(1)
        if not texts:
            raise CommandFailed(
                f"no documented Python source was found in {root}",
                hint="install the standard library's sources",
            )
        self._voice.say(f"Collected {len(texts):,} docstrings of the standard library in {root}")
        return texts

    def _embed(self, texts: Sequence[Docstring]) -> None:
        from storage.embedding import BundledEmbedder

        embedder = BundledEmbedder()
        with self._voice.progress("Embedding", len(texts)) as advance:
            for start in range(0, len(texts), EMBED_BATCH):
                batch = [text.text for text in texts[start : start + EMBED_BATCH]]
                self._vectors.extend(embedder.embed(batch))
                advance(len(batch))
        embedded = embedder.embed([question.text for question in QUESTIONS])
        self._questions = [vector.tolist() for vector in embedded]

    def _await_ready(self) -> None:
        self._until(lambda: not self._supervisor.unready(), READY_S, "the start of the nodes")
        urls = ", ".join(self._supervisor.cluster.url(name) for name in self._names)
        self._voice.say(f"Three nodes are ready: {urls}")

    def _store(self, texts: Sequence[Docstring]) -> None:
        with self._client(self._names[0]) as client:
            patiently(lambda: create_collection(client, len(self._questions[0])))
        with self._voice.progress("Storing", len(texts)) as advance:
            load = store_all(self._client_number, texts, self._vectors, advance)
        self._acknowledged.update(load.acknowledged)
        self.summary.texts = len(texts)
        self.summary.writes_per_s = load.writes_per_s
        self._voice.say(
            f"Stored {len(texts):,} memories in {load.seconds:.1f} s, each in the fsynced log of "
            "at least two nodes before it was acknowledged"
        )

    def _search(self) -> None:
        """Show what is found for every question, with and without its filter."""
        self._answers = self._ask_all(self._names)
        for question, (every, narrowed) in zip(QUESTIONS, self._answers, strict=True):
            self._voice.hits(question.text, every)
            self._voice.hits(f"... where {question.key} is '{question.value}'", narrowed)
        text = QUESTIONS[0].text
        with self._client(self._names[-1]) as client:
            self._voice.hits(
                f"'{text}' sent as words, which the node embeds itself",
                patiently(partial(ask_in_words, client, text)),
            )

    def _ask_all(self, nodes: Sequence[str]) -> list[Answers]:
        """Ask every question with and without its filter, each of another one of the nodes."""
        answers = []
        for number, (question, vector) in enumerate(zip(QUESTIONS, self._questions, strict=True)):
            with self._client(nodes[number % len(nodes)]) as client:
                every = patiently(partial(ask, client, vector))
                narrowed = patiently(partial(ask, client, vector, question.filter))
            answers.append((every, narrowed))
        return answers

    def _time_searches(self) -> None:
        step = max(1, len(self._vectors) // TIMED_SEARCHES)
        sample = [vector.tolist() for vector in self._vectors[::step]]
        with self._client(self._names[0]) as client:
            self._until(lambda: is_indexed(client), CONVERGED_S, "the building of the indexes")
            self.summary.search_p50_ms = median_ms(client, sample)

    def _survive_a_kill(self) -> None:
        victim = busiest_leader(self._cluster())
        others = [name for name in self._names if name != victim]
        writers = [self._writer(number) for number in range(WRITERS)]

        def have_gone_on(since_s: float, acks: int) -> bool:
            return all(writer.acks_since(since_s) >= acks for writer in writers)

        for writer in writers:
            writer.start()
        try:
            self._until(lambda: have_gone_on(0, ACKS_BEFORE), RECOVERED_S, "steady writing")
            killed_s = time.monotonic()
            death = self._supervisor.kill(victim)
            self._voice.say(f"Killed the node that led the most shards: {death.describe()}")
            self._until(
                lambda: have_gone_on(killed_s, ACKS_AFTER), RECOVERED_S, "writing without it"
            )
            self._search_again(others)
            self._supervisor.start(victim)
            self._until(lambda: not self._supervisor.unready(), READY_S, f"the return of {victim}")
        finally:
            for writer in writers:
                writer.stop()
        for writer in writers:
            self._acknowledged.update(writer.acknowledged)
        self.summary.killed = victim
        self.summary.pause_s = max(longest_pause_s(w.ack_times_s, killed_s) for w in writers)
        self._voice.say(
            f"{victim} is back. {WRITERS} clients went on writing all the while; the longest that "
            f"one of them waited for an acknowledgement was {self.summary.pause_s:.2f} s"
        )

    def _writer(self, number: int) -> SteadyWriter:
        """Make a client that writes points which resemble no text, so that they answer nothing."""
        clients = [self._supervisor.client(n, timeout_s=WRITER_TIMEOUT_S) for n in self._names]
        opposite = [(-vector).tolist() for vector in self._vectors[:TIMED_SEARCHES]]
        return SteadyWriter(number, clients, opposite)

    def _search_again(self, nodes: Sequence[str]) -> None:
        """Ask the same questions of fewer nodes, and say whether the answers are the same."""
        answers = self._ask_all(nodes)
        same = sum(
            [hit.name for hit in now] == [hit.name for hit in before]
            for found, earlier in zip(answers, self._answers, strict=True)
            for now, before in zip(found, earlier, strict=True)
        )
        self._voice.say(
            f"{' and '.join(nodes)} go on without it; they give the same answer as before to "
            f"{same} of {2 * len(QUESTIONS)} searches"
        )

    def _compare_replicas(self) -> None:
        self._until(
            lambda: not differing_shards(self._cluster()), CONVERGED_S, "agreement of the replicas"
        )
        self._voice.say("All replicas of every shard are equal: same log index, same state hash")

    def _verify(self) -> None:
        missing: set[int] = set()
        with self._voice.progress("Verifying", NODES * len(self._acknowledged)) as advance:
            for name in self._names:
                with self._client(name) as client:
                    missing.update(lost(client, self._acknowledged))
                advance(len(self._acknowledged))
        self.summary.acknowledged = len(self._acknowledged)
        self.summary.lost = len(missing)

    def _move(self) -> None:
        """Checkpoint into Postgres, end the cluster, and go on with it in fewer nodes."""
        if not self.postgres_url:
            self._voice.say(f"Skipped checkpoint and restoration: {self.obstacle}")
            return
        move = Move(self._supervisor, self._voice, self._questions, self._environment)
        self.summary.moved = move.carry_out(self.postgres_url)

    def _until(self, condition: Callable[[], bool], timeout_s: float, what: str) -> None:
        until(self._supervisor, condition, timeout_s, what)

    def _cluster(self) -> dict[str, Any]:
        with self._client(next(iter(self._supervisor.pids))) as client:
            found: dict[str, Any] = patiently(lambda: client.get("/cluster"))
        return found

    def _client(self, name: str) -> Client:
        return self._supervisor.client(name, timeout_s=REQUEST_TIMEOUT_S)

    def _client_number(self, number: int) -> Client:
        return self._client(self._names[number % NODES])
