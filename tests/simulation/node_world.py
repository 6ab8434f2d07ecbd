"""Whole clusters from a seed: real nodes, real formation, hostile surroundings, then healing.

    form the cluster -> clients at work while faults strike -> heal -> liveness, then everything
    that was acknowledged is on every replica, and every id's history has an order

Same seed, same run: the digest of all messages, commits and answers is compared by the tests.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from cluster.config import Config
from cluster.errors import RecollectError
from cluster.model import Options, Point
from cluster.node import Node
from cluster.raft.pinned import install_clock
from cluster.ring import shard_of
from storage.ids import encode_id
from tests.linearizability import Verdict, linearizable
from tests.simulation.checkers import Violation
from tests.simulation.clients import COLLECTION, Client, Ledger, NoAnswer, ask
from tests.simulation.computer import Computer
from tests.simulation.graph_world import GraphWorld
from tests.simulation.network import Network
from tests.simulation.node_checkers import NodeCheckers
from tests.simulation.node_faults import Faults
from tests.simulation.virtual_loop import CURRENT, Process, VirtualLoop

FORM_S = 20.0
LIVE_S = 12.0
STEP_S = 0.05
CLIENTS_MAX = 20
LOGS_EVERY = 5


@dataclass
class NodeOutcome:
    """What a run gave."""

    seed: int
    digest: str
    faults: Counter[str] = field(default_factory=Counter)
    operations: int = 0
    answered: int = 0
    acked: int = 0
    snapshots: int = 0
    boots: int = 0
    virtual_s: float = 0.0
    stalest_s: float = 0.0
    """The oldest default read: for how long something newer had been acknowledged."""


class NodeWorld:
    """One run."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rng = random.Random(f"nodes {seed}")
        self.loop = VirtualLoop()
        install_clock(self._clock)
        count = 5 if self.rng.random() < 0.2 else 3
        self.names = [f"node{number}" for number in range(1, count + 1)]
        self.shards = self.rng.randint(2, 4)
        self.metadata_members = self.rng.choice((3, 5))
        self.network = Network(self.loop, self.names, random.Random(self.rng.getrandbits(64)))
        self.loop.network = self.network
        self.checkers = NodeCheckers()
        self.computers = [self._computer(name) for name in self.names]
        self.faults = Faults(self.computers, self.network, random.Random(self.rng.getrandbits(64)))
        self.began_s, self.steps = math.inf, 0
        self.ledger = Ledger(self.shards)
        self.clients = [self._client(number) for number in range(self.rng.randint(2, 6))]
        self.working: list[asyncio.Task[None]] = []
        self.faults.on_usurp = self._watch_closely
        self.graphs = GraphWorld(seed, self.loop, self.computers, self.checkers)
        self.visitor = Process(self.loop, "visitor", random.Random(self.rng.getrandbits(64)))

    def _clock(self) -> float:
        process = CURRENT.get()
        return self.loop.now_s if process is None else process.clock()

    def _computer(self, name: str) -> Computer:
        config = Config.tiny(
            node_id=name,
            cluster_nodes=",".join(f"{each}={each}:7000" for each in self.names),
            peer_secret="simulated",
            shards=self.shards,
            metadata_members_max=self.metadata_members,
            tick_ms=self.rng.choice((20, 40)),
            heartbeat_ms=100,
            election_timeout_ms=self.rng.choice((500, 1000)),
            frame_bytes_max=256 * 1024,
            snapshot_chunk_bytes=16 * 1024,
            log_bytes_max=self.rng.choice((1024, 4096)),
            segment_bytes=self.rng.choice((8192, 32768)),
        )
        rng = random.Random(self.rng.getrandbits(64))
        computer = Computer(config, self.loop, self.network, rng, self.checkers)
        self.checkers.watch(computer)
        return computer

    def _client(self, number: int) -> Client:
        rng = random.Random(self.rng.getrandbits(64))
        process = Process(self.loop, f"client{number}", rng)
        return Client(number, process, self.computers, self.ledger, self.checkers)

    def run(self) -> NodeOutcome:
        """Run the seed; raises Violation."""
        logging.disable(logging.CRITICAL)
        try:
            self.loop.run(self._run())
        finally:
            logging.disable(logging.NOTSET)
        return NodeOutcome(
            self.seed,
            self.checkers.trace.hexdigest(),
            self.faults.counts,
            self.ledger.operations + self.graphs.ledger.operations,
            self.ledger.answered + self.graphs.ledger.answered,
            self.checkers.acked,
            self.checkers.snapshots,
            sum(computer.boots for computer in self.computers),
            self.loop.now_s - 1000.0,
            self.checkers.stalest_s,
        )

    async def _run(self) -> None:
        try:
            await self._play()
        finally:
            await self._end()

    async def _end(self) -> None:
        """Stop every process, and let what they began unwind."""
        for computer in self.computers:
            computer.crash(power=False)
        of_clients = [client.process for client in self.clients]
        of_graphs = [client.process for client in self.graphs.clients]
        for process in (self.visitor, *of_clients, *of_graphs):
            process.end()
        for _ in range(20):
            await asyncio.sleep(0)

    async def _play(self) -> None:
        self.checkers.on_death = self.faults.restart_later
        for computer in self.computers:
            computer.boot()
        if self.rng.random() < 0.2:
            await self._be_hostile(self.rng.uniform(0.5, 4.0))
        await self._create_collection(self.computers[0], COLLECTION)
        await self.graphs.create(self._insist)
        self.began_s = self.loop.now_s
        self.working = [client.process.start(client.run()) for client in self.clients]
        self.working += self.graphs.start()
        await self._be_hostile(self.rng.choice((6.0, 12.0, 20.0)))
        await self._pass(self.rng.uniform(0.0, 2.0))
        for client in self.clients:
            client.stop = True
        self.graphs.stop()
        for task in self.working:
            await self._until(task.done, 30.0, "a client does not end")
            task.result()
        await self._demand_liveness()
        await self.graphs.demand_liveness(self._insist)
        await self._until(self._converged, LIVE_S, "the replicas do not converge")
        self._check_at_rest()
        self.graphs.check_at_rest(self._machines())
        self._raise_violation()
        self._check_histories()

    def _watch_closely(self, deposed: Computer) -> None:
        """Read one id at a leader that is about to be deposed, while it is written elsewhere."""
        assert deposed.node is not None, "who leads is there"
        led = [shard for shard, each in deposed.node.shards.items() if each.is_leader]
        if self.loop.now_s < self.began_s or len(self.clients) > CLIENTS_MAX:
            return
        trace = self.ledger.new_in(self.rng.choice(led))
        for act, computers in (
            ("write", [each for each in self.computers if each is not deposed]),
            ("strong_read", [deposed]),
        ):
            client = self._client(len(self.clients))
            client.computers, client.home = computers, computers[0]
            self.clients.append(client)
            self.working.append(client.process.start(client.focus(trace, act, 3.0)))

    async def _be_hostile(self, seconds: float) -> None:
        """Let faults strike for a while, then end them all."""
        striking = self.loop.create_task(self.faults.strike())
        await self._pass(seconds)
        striking.cancel()
        await asyncio.wait([striking])
        if not striking.cancelled():
            striking.result()
        self.faults.heal()

    async def _pass(self, seconds: float) -> None:
        """Let time pass, as long as nothing is violated."""
        end_s = self.loop.now_s + seconds
        while self.loop.now_s < end_s:
            await asyncio.sleep(STEP_S)
            self.steps += 1
            if self.steps % LOGS_EVERY == 0:
                self.checkers.compare_logs()
            self._raise_violation()

    async def _until(self, condition: Any, seconds: float, otherwise: str) -> None:
        end_s = self.loop.now_s + seconds
        while not condition():
            if self.loop.now_s > end_s:
                raise Violation(otherwise)
            await self._pass(STEP_S)

    def _raise_violation(self) -> None:
        if self.checkers.violation:
            raise Violation(self.checkers.violation)
        if self.loop.errors:
            raise Violation(self.loop.errors[0])

    # -- before and after ---------------------------------------------------------------------

    async def _create_collection(self, computer: Computer, name: str) -> None:
        """Write to the metadata group, once the cluster is formed."""

        async def create(node: Node, options: Options) -> object:
            return await node.router.create_collection(
                name,
                dimension=4,
                distance="Dot",
                hnsw_m=8,
                hnsw_ef_construct=16,
                embedding_space=None,
                options=options,
            )

        otherwise = f"{computer.name} does not create {name}"
        await self._insist(computer, create, FORM_S, otherwise)

    async def _insist(self, computer: Computer, make: Any, seconds: float, otherwise: str) -> Any:
        """Ask a node until it does it."""
        end_s = self.loop.now_s + seconds
        while self.loop.now_s < end_s:
            if computer.process is not None:
                options = Options(computer.process.clock() + 4.5)
                try:
                    return await ask(computer, self.visitor, partial(make, options=options), 6.0)
                except (RecollectError, NoAnswer) as error:
                    otherwise = f"{otherwise.partition(':')[0]}: {error}"
            await self._pass(STEP_S)
        raise Violation(otherwise)

    async def _demand_liveness(self) -> None:
        """Every group takes a write through every node."""
        wanted = dict.fromkeys(range(self.shards))
        ids: dict[int, int] = {}
        record_id = 1_000_000
        while wanted:
            record_id += 1
            shard = shard_of(encode_id(record_id), self.shards)
            if shard in wanted:
                del wanted[shard]
                ids[shard] = record_id
        for computer in self.computers:
            await self._create_collection(computer, f"last-{computer.name}")
            for shard, each in sorted(ids.items()):
                otherwise = f"{computer.name} does not write to shard {shard}"
                await self._insist(computer, self._last_write(each), LIVE_S, otherwise)

    def _last_write(self, record_id: int) -> Any:
        value = self.ledger.next_value()
        vector = np.array([value, record_id % 1000, 1.0, 0.5], "<f4")

        async def write(node: Node, options: Options) -> object:
            collection = await node.router.collection(COLLECTION, options)
            point = Point(record_id, vector, {"value": value})
            once = replace(options, request_id=f"last-{value}")
            return await node.router.upsert(collection, [point], once)

        return write

    def _machines(self) -> dict[int, list[tuple[str, Any]]]:
        found: dict[int, list[tuple[str, Any]]] = {}
        for computer in self.computers:
            for stored in computer.states.stored.values():
                machine: Any = stored.machine
                if machine is not None:
                    found.setdefault(machine.group, []).append((computer.name, machine))
        return found

    def _converged(self) -> bool:
        machines = self._machines()
        return len(machines) == self.shards + 1 and all(
            len({machine.position() for _, machine in replicas}) == 1
            for replicas in machines.values()
        )

    # -- verdicts -----------------------------------------------------------------------------

    def _check_at_rest(self) -> None:
        """Replicas are equal, their hashes true, and what was acknowledged is there."""
        for group, replicas in self._machines().items():
            hashes = {machine.state_hash() for _, machine in replicas}
            true = {machine.recompute_hash() for _, machine in replicas}
            requests = {machine.request_hash() for _, machine in replicas}
            if len(hashes | true) != 1 or len(requests) != 1:
                raise Violation(f"group {group}: replicas differ at rest, or their hashes lie")
        for (shard, record_id), effects in self.checkers.effects.items():
            newest = max(effects.values, default=0)
            if any(version > newest for _, version in effects.acked):
                raise Violation(f"id {record_id}: an acknowledged write never took effect")
            self._check_record(shard, record_id, newest, effects.values.get(newest))

    def _check_record(self, shard: int, record_id: int, newest: int, value: int | None) -> None:
        for name, machine in self._machines()[shard + 1]:
            rows = machine.retrieve(
                self._uid(), [encode_id(record_id)], with_vector=True, with_payload=False
            )
            found = {row.version: int(np.frombuffer(row.vector, "<f4")[0]) for row in rows}
            if found != ({} if value is None else {newest: value}):
                raise Violation(f"{name}: id {record_id} is {found} instead of {value}")

    def _uid(self) -> int:
        view = next(c.node.view() for c in self.computers if c.node is not None)
        assert view is not None
        return view.collections[COLLECTION].uid

    def _check_histories(self) -> None:
        for trace in self.ledger.traces:
            verdict = linearizable(trace.history)
            if verdict is not Verdict.LINEARIZABLE:
                raise Violation(f"id {trace.record_id}: {verdict.value}: {trace.history}")
