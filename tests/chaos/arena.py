"""Where it happens: the nodes, their network and disks, and what the faults ask about them."""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from cluster.ports import free_base
from tests.chaos.disks import Disk, own_mounts
from tests.chaos.history import DIMENSION, History
from tests.chaos.http_client import Answer, NoAnswer, NotSent
from tests.chaos.leftovers import remove_leftovers, run_name
from tests.chaos.load import COLLECTION, Target
from tests.chaos.network import NamespaceNetwork, Network, ProxyNetwork
from tests.chaos.nodes import FAKETIME, SMALL_LOGS, Node, make_node

NAMES: Final = ["node1", "node2", "node3"]
HEAL_S: Final = 60.0
ASK_TIMEOUT_S: Final = 3.0
POLL_S: Final = 0.1


@dataclass
class Arena:
    """See the module. Made by `open_arena`."""

    folder: Path
    network: Network
    nodes: dict[str, Node]
    target: Target
    history: History
    cuts: set[tuple[str, str]] = field(default_factory=set)
    violations: list[str] = field(default_factory=list)
    marks_lost: int = 0
    marks: int = 0

    @property
    def has_disks(self) -> bool:
        return all(node.disk for node in self.nodes.values())

    @property
    def has_clocks(self) -> bool:
        return FAKETIME.exists()

    async def ask(self, node: str, method: str, path: str, body: Any = None) -> Answer | None:
        """Send one request on its own connection; None when no answer comes."""
        connection = self.target.connection(node)
        try:
            return await connection.call(method, path, body, timeout_s=ASK_TIMEOUT_S)
        except (NotSent, NoAnswer):
            return None
        finally:
            connection.close()

    async def ready(self, node: str) -> bool:
        answer = await self.ask(node, "GET", "/readyz")
        return answer is not None and answer.status == 200

    async def cluster(self) -> dict[str, Any] | None:
        """Return the cluster as a node that answers sees it."""
        for name in self.nodes:
            answer = await self.ask(name, "GET", "/cluster")
            if answer is not None and answer.status == 200:
                found: dict[str, Any] = answer.body["result"]
                return found
        return None

    async def leader(self, rng: random.Random) -> str:
        """Return the node that leads a shard chosen by chance; any node when none is known."""
        found = await self.cluster()
        leaders: list[str | None] = [shard["leader"] for shard in found["shards"]] if found else []
        return rng.choice([each for each in leaders if each] or list(self.nodes))

    async def cut(self, links: set[tuple[str, str]]) -> None:
        """Cut these links in addition to those that are cut."""
        self.cuts |= links
        await self.network.cut(self.cuts)

    async def join(self, links: set[tuple[str, str]]) -> None:
        """Heal these links."""
        self.cuts -= links
        await self.network.cut(self.cuts)

    def watch(self) -> None:
        """Start again who ended by itself, and note whom nothing gave a reason to."""
        for node in self.nodes.values():
            words = node.reap()
            if words is not None:
                node.own_ends.append(words)
                if not node.expected_to_end:
                    self.violations.append(f"{node.name} ended by itself: {words}")
                node.start()

    async def settled(self) -> float:
        """Wait until all nodes serve and every shard takes writes; returns how long it took.

        Raises TimeoutError.
        """
        began_s = time.monotonic()
        async with asyncio.timeout(HEAL_S):
            while not all([await self.ready(name) for name in self.nodes]):
                self.watch()
                await asyncio.sleep(POLL_S)
            ready_s = time.monotonic()
            for shard in range(self.target.shards):
                while not self.history.acks[shard] or self.history.acks[shard][-1] < ready_s:
                    self.watch()
                    await asyncio.sleep(POLL_S)
        for node in self.nodes.values():
            node.expected_to_end = False
        return time.monotonic() - began_s

    async def start(self) -> None:
        """Start all nodes, wait until they serve, and make the collection."""
        for node in self.nodes.values():
            node.start()
        async with asyncio.timeout(HEAL_S):
            while not all([await self.ready(name) for name in self.nodes]):
                for node in self.nodes.values():
                    assert node.runs, f"{node.name} ended: see {node.log}"
                await asyncio.sleep(POLL_S)
        body = {"vectors": {"size": DIMENSION, "distance": "Euclid"}}
        answer = await self.ask(NAMES[0], "PUT", COLLECTION, body)
        assert answer is not None, "a node that is ready answers"
        assert answer.status == 200, answer

    async def close(self) -> None:
        """End the nodes and remove what was made of the system."""
        for node in self.nodes.values():
            node.signal(signal.SIGCONT)
            with contextlib.suppress(AssertionError):
                await node.kill()
        await self.network.close()
        for node in self.nodes.values():
            if node.disk:
                await node.disk.close()


async def open_arena(folder: Path, *, privileged: bool, shards: int, rng: random.Random) -> Arena:
    """Make network, disks and nodes; nothing of the system stays behind when that fails."""
    network: Network
    if privileged:
        await own_mounts()
        await remove_leftovers()
        network = NamespaceNetwork(run_name(), NAMES, (64 + rng.randrange(64), rng.randrange(256)))
    else:
        network = ProxyNetwork(NAMES, free_base(len(NAMES), rng))
    disks = {name: Disk(folder, name) if privileged else None for name in NAMES}
    key = secrets.token_hex(16)
    common = {
        **SMALL_LOGS,
        "RECOLLECT_SHARDS": str(shards),
        "RECOLLECT_API_KEY": key,
        "RECOLLECT_PEER_SECRET": secrets.token_hex(32),
    }
    arena = Arena(folder, network, {}, Target({}, {"api-key": key}, shards), History())
    try:
        await network.open()
        for name, disk in disks.items():
            arena.nodes[name] = make_node(name, folder, network, common, disk)
            arena.target.addresses[name] = network.http(name)
            if disk:
                await disk.open()
    except BaseException:
        await arena.close()
        raise
    return arena
