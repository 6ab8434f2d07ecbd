"""Networks whose links can be cut one way: real ones for root, proxies for everybody else.

`NamespaceNetwork` gives each node a network of its own, joined by a bridge to the others and to
the clients; a cut is a packet filter's drop, so connections hang as they do behind a broken
switch. `ProxyNetwork` puts a proxy into the one connection that each pair of nodes has; a cut
holds the bytes back until it heals. Clients are never cut off from nodes.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final, Protocol

from tests.chaos.commands import CommandError, system

HTTP_PORT: Final = 5000
PEER_PORT: Final = 6000
Address = tuple[str, int]


class Network(Protocol):
    """Where nodes listen, how they reach each other, and what is cut."""

    name: str

    async def open(self) -> None:
        """Make it."""

    async def close(self) -> None:
        """Remove it; what is not there is no error."""

    def http(self, node: str) -> Address:
        """Return where a node's HTTP API listens."""

    def peers(self, node: str) -> dict[str, Address]:
        """Return the addresses by which `node` knows all nodes; its own is where it listens."""

    def command(self, node: str) -> list[str]:
        """Return the words before a command that shall run where the node is."""

    async def cut(self, links: set[tuple[str, str]]) -> None:
        """Let nothing pass from source to target of these links, and all on the others."""


class NamespaceNetwork:
    """A bridge in a namespace of its own, one namespace a node, one end here for the clients."""

    name = "network namespaces"

    def __init__(self, run: str, nodes: list[str], subnet: tuple[int, int]) -> None:
        self._run, self._nodes = run, nodes
        self._prefix = f"10.{subnet[0]}.{subnet[1]}"
        self._bridge = f"{run}-br"

    def _space(self, node: str) -> str:
        return f"{self._run}-{node}"

    def _host(self, node: str) -> str:
        return f"{self._prefix}.{1 + self._nodes.index(node)}"

    async def open(self) -> None:
        bridge = self._bridge
        await system("ip", "netns", "add", bridge)
        await system("ip", "-n", bridge, "link", "add", "br0", "type", "bridge")
        await system("ip", "-n", bridge, "link", "set", "br0", "up")
        for number, node in enumerate(self._nodes):
            await system("ip", "netns", "add", self._space(node))
            await self._join(f"v{number}", ["eth0", "netns", self._space(node)])
            inside = ["ip", "-n", self._space(node)]
            await system(*inside, "addr", "add", f"{self._host(node)}/24", "dev", "eth0")
            await system(*inside, "link", "set", "eth0", "up")
            await system(*inside, "link", "set", "lo", "up")
        outside = f"{self._run}c"
        await self._join("clients", [outside])
        await system("ip", "addr", "add", f"{self._prefix}.254/24", "dev", outside)
        await system("ip", "link", "set", outside, "up")

    async def _join(self, port: str, other_end: list[str]) -> None:
        """Make a pair of interfaces: `port` at the bridge, and the other one where it belongs."""
        words = ["ip", "link", "add", port, "netns", self._bridge, "type", "veth", "peer", "name"]
        await system(*words, *other_end)
        await system("ip", "-n", self._bridge, "link", "set", port, "master", "br0", "up")

    async def close(self) -> None:
        for space in (self._bridge, *map(self._space, self._nodes)):
            with contextlib.suppress(CommandError):
                await system("ip", "netns", "del", space)

    def http(self, node: str) -> Address:
        return self._host(node), HTTP_PORT

    def peers(self, node: str) -> dict[str, Address]:
        return {each: (self._host(each), PEER_PORT) for each in self._nodes}

    def command(self, node: str) -> list[str]:
        # Not `ip netns exec`: that copies all mounts, and a disk could not be unmounted any more.
        return ["nsenter", f"--net=/run/netns/{self._space(node)}"]

    async def cut(self, links: set[tuple[str, str]]) -> None:
        for target in self._nodes:
            sources = sorted(source for source, each in links if each == target)
            drops = "".join(f"    ip saddr {self._host(source)} drop\n" for source in sources)
            rules = (
                "table inet cut\ndelete table inet cut\ntable inet cut {\n  chain in {\n"
                f"    type filter hook input priority 0;\n{drops}  }}\n}}\n"
            )
            await system(*self.command(target), "nft", "-f", "-", text=rules)


class ProxyNetwork:
    """Everything on 127.0.0.1. Of each pair the node with the greater name dials, through us."""

    name = "proxies"

    def __init__(self, nodes: list[str], base: int) -> None:
        self._nodes, self._base = nodes, base
        self._servers: list[asyncio.Server] = []
        self._ports: dict[tuple[str, str], int] = {}
        self._open: dict[tuple[str, str], asyncio.Event] = {}

    async def open(self) -> None:
        for dialler in self._nodes:
            for listener in self._nodes:
                if listener < dialler:
                    await self._listen(dialler, listener)

    async def _listen(self, dialler: str, listener: str) -> None:
        for link in ((dialler, listener), (listener, dialler)):
            self._open[link] = asyncio.Event()
            self._open[link].set()

        async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError):
                far_reader, far_writer = await asyncio.open_connection(*self._own(listener))
                try:
                    async with asyncio.TaskGroup() as tasks:
                        out, back = self._open[dialler, listener], self._open[listener, dialler]
                        tasks.create_task(_pump(reader, far_writer, out))
                        tasks.create_task(_pump(far_reader, writer, back))
                except* OSError:
                    pass
                finally:
                    far_writer.transport.abort()
            writer.transport.abort()

        server = await asyncio.start_server(carry, "127.0.0.1", 0)
        self._servers.append(server)
        self._ports[dialler, listener] = server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        for gate in self._open.values():
            gate.set()
        for server in self._servers:
            server.close()

    def http(self, node: str) -> Address:
        return "127.0.0.1", self._base + 1 + self._nodes.index(node)

    def _own(self, node: str) -> Address:
        return "127.0.0.1", self._base + 1001 + self._nodes.index(node)

    def peers(self, node: str) -> dict[str, Address]:
        through = {
            each: ("127.0.0.1", self._ports[node, each]) for each in self._nodes if each < node
        }
        return {each: through.get(each, self._own(each)) for each in self._nodes}

    def command(self, node: str) -> list[str]:
        return []

    async def cut(self, links: set[tuple[str, str]]) -> None:
        for link, gate in self._open.items():
            if link in links:
                gate.clear()
            else:
                gate.set()


async def _pump(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, gate: asyncio.Event
) -> None:
    """Carry bytes while the gate is open; raises OSError at the end, which ends the other way."""
    while data := await reader.read(1 << 16):
        await gate.wait()
        writer.write(data)
        await writer.drain()
    raise ConnectionResetError
