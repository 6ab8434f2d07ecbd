"""The graphs of a simulated cluster: made before clients come, checked when all is over.

Not every seed has them: those without stay cheap, and see more of everything else.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import Any

import orjson

from cluster.graph_questions import Cypher, GraphAnswer
from cluster.metadata import CreateGraph
from cluster.model import Collection, Options
from cluster.node import Node
from tests.simulation.computer import Computer
from tests.simulation.graph_checkers import Fate, GraphCheckers, Place
from tests.simulation.graph_clients import (
    BESIDE,
    COUNT,
    COUNTER,
    EFFORT,
    GraphClient,
    GraphLedger,
    all_links,
    first_content,
)
from tests.simulation.node_checkers import NodeCheckers
from tests.simulation.virtual_loop import Process, VirtualLoop

SHARE = 0.5
"""Of the seeds have graphs."""
PATIENCE_S = 20.0

Insist = Callable[[Computer, Any, float, str], Awaitable[Any]]
"""Asks a node until it does something, for some seconds; says otherwise what it does not do."""


class GraphWorld:
    """The part of a run that is about graphs."""

    def __init__(
        self, seed: int, loop: VirtualLoop, computers: list[Computer], checkers: NodeCheckers
    ) -> None:
        rng = random.Random(f"graphs {seed}")
        self.computers, self.ledger = computers, GraphLedger()
        self.names: list[str] = []
        self.clients: list[GraphClient] = []
        if rng.random() < SHARE:
            return
        self.checkers = checkers.graphs = GraphCheckers(checkers.fail)
        self.names = [f"mind{number}" for number in range(rng.choice((1, 1, 2)))]
        for number in range(rng.randint(1, 3)):
            process = Process(loop, f"graph client{number}", random.Random(rng.getrandbits(64)))
            self.clients.append(GraphClient(number, process, computers, self.ledger, checkers))

    async def create(self, insist: Insist) -> None:
        """Create the graphs, and the collection beside them, and give them their first content."""
        first = self.computers[0]
        if self.names:
            await insist(first, _create_collection, PATIENCE_S, "no collection lies beside graphs")
        for name in self.names:
            otherwise = f"{first.name} does not create {name}"
            place = await insist(first, partial(_create, name), PATIENCE_S, otherwise)
            self.checkers.places[name] = place
            otherwise = f"{first.name} does not write to {name}"
            await insist(first, partial(_fill, name), PATIENCE_S, otherwise)

    def start(self) -> list[asyncio.Task[None]]:
        """Let the clients begin."""
        return [client.process.start(client.run()) for client in self.clients]

    def stop(self) -> None:
        """Let the clients end what they do."""
        for client in self.clients:
            client.stop = True

    async def demand_liveness(self, insist: Insist) -> None:
        """Every node answers about every graph, with all that was told before."""
        for computer in self.computers:
            for name in self.names:
                place = self.checkers.places[name]
                floor = self.checkers.told_until.get(place.shard, 0)
                otherwise = f"{computer.name} does not read {name}"
                answer = await insist(computer, partial(_links, name), PATIENCE_S, otherwise)
                self.checkers.saw(place, all_links(), answer, floor)
                request_id = f"last-{computer.name}-{name}"
                fate = self.checkers.fates[request_id] = Fate(place.shard, f"count {name}")
                otherwise = f"{computer.name} does not count in {name}"
                count = partial(_count, name, request_id)
                fate.version = await insist(computer, count, PATIENCE_S, otherwise)

    def check_at_rest(self, machines: dict[int, list[tuple[str, Any]]]) -> None:
        """Memory, rows and twins agree on every replica, and with what clients were told."""
        if not self.names:
            return
        for group, replicas in machines.items():
            for node, machine in replicas if group else ():
                self.checkers.compare_rows(node, machine)
        self.checkers.check_fates()
        self.checkers.check_counters(COUNTER)


async def _create_collection(node: Node, options: Options) -> Collection:
    return await node.router.create_collection(
        BESIDE,
        dimension=4,
        distance="Dot",
        hnsw_m=8,
        hnsw_ef_construct=16,
        embedding_space=None,
        custom_sharding=True,
        options=options,
    )


async def _create(name: str, node: Node, options: Options) -> Place:
    graphs = node.router.graphs
    await graphs.create(CreateGraph(name, 4, "Dot", None, ("Thing.value",)), options)
    graph = await graphs.graph(name, options)
    collection = await node.router.collection(BESIDE, options)
    return Place(name, graphs.shard(name), graph.uid, collection.uid)


async def _fill(name: str, node: Node, options: Options) -> int:
    graph = await node.router.graphs.graph(name, options)
    once = replace(options, request_id=f"fill-{name}")
    ack = await node.router.graphs.write(name, graph, first_content(), once)
    return ack.version


async def _links(name: str, node: Node, options: Options) -> GraphAnswer:
    graph = await node.router.graphs.graph(name, options)
    return await node.router.graphs.ask(graph, all_links(), replace(options, strong=True), EFFORT)


async def _count(name: str, request_id: str, node: Node, options: Options) -> int:
    graph = await node.router.graphs.graph(name, options)
    question = Cypher(query=COUNT, parameters=orjson.dumps({"id": COUNTER}), rows_max=1)
    once = replace(options, request_id=request_id)
    written, _ = await node.router.graphs.run(graph, question, once, EFFORT)
    return written.version
