"""The arrangement of a cluster on one machine: names, ports, folders, each node's environment.

Values only. Node k is `nodek`, serves HTTP on 127.0.0.1:P+k and peers on P+1000+k. Its folder
DIR/nodek holds `pid` and `log`, which are the supervisor's, and `data`, which is the node's own.
Scripts of others rely on these words.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cluster.ports import PEER_OFFSET, cluster_ports

HOST: Final = "127.0.0.1"
# The nodes get these from the arrangement alone; a value in the caller's shell would set all
# nodes to the same address or folder.
_NOT_INHERITED: Final = frozenset({"RECOLLECT_NODE_ID", "RECOLLECT_CLUSTER_NODES", "RECOLLECT_URL"})


@dataclass(frozen=True, kw_only=True)
class LocalCluster:
    """`nodes` nodes under `folder`, with ports counted from `port`."""

    folder: Path
    nodes: int
    port: int
    shards: int
    peer_secret: str

    @property
    def names(self) -> list[str]:
        """Return the nodes' names, in order."""
        return [f"node{k}" for k in range(1, self.nodes + 1)]

    @property
    def ports(self) -> list[int]:
        """Return every port that the cluster listens on."""
        return cluster_ports(self.port, self.nodes)

    def http_port(self, name: str) -> int:
        """Return the port of a node's HTTP API."""
        return self.port + self._number(name)

    def peer_port(self, name: str) -> int:
        """Return the port on which a node talks to its peers."""
        return self.port + PEER_OFFSET + self._number(name)

    def url(self, name: str) -> str:
        """Return the URL of a node's HTTP API."""
        return f"http://{HOST}:{self.http_port(name)}"

    def node_folder(self, name: str) -> Path:
        """Return the folder of all that belongs to a node."""
        return self.folder / name

    def log_file(self, name: str) -> Path:
        """Return where a node's output goes."""
        return self.node_folder(name) / "log"

    def environment(self, name: str, inherited: Mapping[str, str]) -> dict[str, str]:
        """Return the environment of a node's process: the inherited one, and its own place."""
        kept = {key: value for key, value in inherited.items() if key not in _NOT_INHERITED}
        return kept | {
            "NODE_ID": name,
            "CLUSTER_NODES": self._addresses(self.peer_port),
            "RECOLLECT_HTTP_NODES": self._addresses(self.http_port),
            "RECOLLECT_DATA_DIR": str(self.node_folder(name) / "data"),
            "RECOLLECT_HTTP_HOST": HOST,
            "RECOLLECT_HTTP_PORT": str(self.http_port(name)),
            "RECOLLECT_PEER_HOST": HOST,
            "RECOLLECT_PEER_SECRET": self.peer_secret,
            "RECOLLECT_SHARDS": str(self.shards),
        }

    def _addresses(self, port_of: Callable[[str], int]) -> str:
        return ",".join(f"{name}={HOST}:{port_of(name)}" for name in self.names)

    def _number(self, name: str) -> int:
        return self.names.index(name) + 1
