"""Every limit and address of a node, in one frozen and validated place.

Values come from `RECOLLECT_*` (and NODE_ID, CLUSTER_NODES, RAFT_ELECTION_TIMEOUT) once, at start.
`Config.tiny()` is the test preset: the same relations between values, a hundred times smaller,
so that limits are met in milliseconds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final, get_type_hints

NOWHERE: Final = "none"
"""The address of checkpoints that are not to be made."""
KIB: Final = 1024
MIB: Final = 1024 * KIB
BACKENDS: Final = ("cluster", "postgres")
_CHECKPOINT_ID: Final = re.compile(r"[1-9][0-9]{0,17}")


def _setting(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


def _secret(text: str) -> Any:
    """Return a setting that no log and no error shows."""
    return field(default="", repr=False, metadata={"help": text, "secret": True})


@dataclass(frozen=True, kw_only=True)
class Config:
    """A node's settings. Each field is read from `RECOLLECT_<NAME IN CAPITALS>`."""

    backend: str = _setting(
        "cluster",
        "what `recollect serve` runs: a node of a cluster, or `postgres`: patterns in a Postgres",
    )
    node_id: str = _setting("node1", "this node's name; also NODE_ID")
    cluster_nodes: str = _setting(
        "node1=127.0.0.1:6001", "name=host:port of every node's peer port; also CLUSTER_NODES"
    )
    data_dir: Path = _setting(  # noqa: RUF009  # it makes a field, and a path is immutable
        Path("recollect-node1"),
        "where this node keeps its files",
    )
    http_host: str = _setting("127.0.0.1", "address the HTTP API listens on")
    http_port: int = _setting(5001, "port of the HTTP API")
    peer_host: str = _setting("127.0.0.1", "address the peer port listens on")
    http_nodes: str = _setting("", "name=host:port of every node's HTTP API, shown to clients")
    api_key: str = _secret("key that every route but /healthz asks for")
    peer_secret: str = _secret("secret shared by the nodes; keys the frames' MAC")
    insecure: bool = _setting(
        default=False, text="allow a non-loopback address without key and secret"
    )

    shards: int = _setting(12, "number of shards; fixed when the cluster is formed")
    replication: int = _setting(3, "replicas of a shard, at most the number of nodes")
    virtual_nodes: int = _setting(150, "points a node has on the placement ring")
    metadata_members_max: int = _setting(5, "nodes that vote in the metadata group")

    election_timeout_ms: int = _setting(1000, "shortest election timeout; RAFT_ELECTION_TIMEOUT")
    heartbeat_ms: int = _setting(100, "leader's heartbeat period")
    tick_ms: int = _setting(20, "period of the raft timers' sweep")
    command_bytes_max: int = _setting(
        MIB, "largest command in the log; larger batches are split; fixed like shards"
    )
    append_bytes_max: int = _setting(MIB, "entries in one append message")
    inflight_bytes_max: int = _setting(4 * MIB, "unacknowledged entries towards one follower")
    frame_bytes_max: int = _setting(16 * MIB, "largest frame accepted from a peer")
    log_bytes_max: int = _setting(4 * MIB, "log of one group kept in memory before it is cut")
    log_memory_bytes_max: int = _setting(64 * MIB, "memory of all logs of this node together")
    segment_bytes: int = _setting(16 * MIB, "size of a write-ahead log segment")
    disk_free_bytes_min: int = _setting(
        64 * MIB, "free disk space below which writes answer 507; at most a tenth of the disk"
    )
    snapshot_chunk_bytes: int = _setting(256 * KIB, "piece of a snapshot in one message")

    request_timeout_ms: int = _setting(4500, "time a request may take before it answers 503")
    max_staleness_ms: int = _setting(1000, "age of leader contact that a default read accepts")
    search_workers: int = _setting(
        -1,
        "processes that a node forks to share its searches while there are many; 0: none; -1: one "
        "for each processor, at most 8",
    )
    body_bytes_max: int = _setting(64 * MIB, "largest HTTP request body")
    batch_points_max: int = _setting(10_000, "points in one upsert")
    payload_bytes_max: int = _setting(64 * KIB, "payload of one point, as JSON")
    dimension_max: int = _setting(4096, "largest vector")
    limit_max: int = _setting(10_000, "most results of one search or scroll")
    request_id_ttl_ms: int = _setting(
        600_000,
        "how long an idempotency key is remembered, at least; longer within the last 10,000 "
        "entries of a shard's log, whatever the clocks say; fixed when the cluster is formed",
    )

    checkpoint_url: str = _secret(
        "Postgres that checkpoints go to, postgresql://user:password@host/database; none: nowhere; "
        "empty: nowhere, but `recollect up` runs a Postgres of its own. With "
        "RECOLLECT_BACKEND=postgres: where patterns live"
    )
    checkpoint_interval_s: int = _setting(
        3600, "time from one checkpoint to the next; 0: only on demand"
    )
    checkpoints_kept: int = _setting(24, "finished checkpoints that are kept")

    restore: str = _setting(
        "",
        "checkpoint that a new cluster is formed from: its id, or latest; empty: none; it counts "
        "only when the cluster is formed, and must be the same on all nodes then",
    )
    outbox_url: str = _secret(
        "Postgres with tables whose rows flow into collections; empty: none; see OUTBOX.md"
    )
    outbox_dead_letters_max: int = _setting(
        1000, "dead letters of one outbox from which on it waits for somebody"
    )

    embedding_url: str = _setting("", "OpenAI-style /v1/embeddings endpoint; empty: bundled model")
    embedding_model: str = _setting("", "model name sent to that endpoint")
    embedding_api_key: str = _secret("key sent to that endpoint")
    embedding_dimension: int = _setting(0, "dimension of that endpoint's vectors")

    def __post_init__(self) -> None:
        """Assert the relations between values; raises ValueError naming the setting."""
        self._require(0 < self.shards <= 1024, "shards", "must be 1..1024")
        self._require(self.replication >= 1, "replication", "must be at least 1")
        self._require(self.peers().keys() >= {self.node_id}, "cluster_nodes", "must name this node")
        self._require(
            self.election_timeout_ms >= 5 * self.heartbeat_ms,
            "election_timeout_ms",
            "must be at least five heartbeats",
        )
        self._require(self.heartbeat_ms > self.tick_ms, "heartbeat_ms", "must exceed tick_ms")
        self._require(
            self.frame_bytes_max >= 4 * max(self.command_bytes_max, self.append_bytes_max),
            "frame_bytes_max",
            "must hold four commands",
        )
        self._require(
            self.log_memory_bytes_max >= 8 * self.command_bytes_max,
            "log_memory_bytes_max",
            "must hold eight commands",
        )
        self._require(
            self.segment_bytes >= 2 * self.command_bytes_max, "segment_bytes", "holds two commands"
        )

        self._require(-1 <= self.search_workers <= 32, "search_workers", "must be -1..32")
        self._require(self.backend in BACKENDS, "backend", f"is one of {', '.join(BACKENDS)}")
        self._require(
            self.backend == "cluster" or self.checkpoint_url not in ("", NOWHERE),
            "checkpoint_url",
            "must say where the patterns are when the backend is postgres",
        )
        self._require(self.checkpoint_interval_s >= 0, "checkpoint_interval_s", "is not negative")
        self._require(self.checkpoints_kept >= 1, "checkpoints_kept", "must be at least 1")
        known = self.restore in {"", "latest"} or _CHECKPOINT_ID.fullmatch(self.restore) is not None
        self._require(known, "restore", "must be a checkpoint's id, or latest")
        self._require(
            self.outbox_dead_letters_max >= 1, "outbox_dead_letters_max", "must be at least 1"
        )

    @staticmethod
    def _require(holds: bool, name: str, text: str) -> None:  # noqa: FBT001
        if not holds:
            raise ValueError(f"{name} {text}")

    def shard_path(self, shard: int) -> Path:
        """Return the path of a shard's state on this node."""
        return self.data_dir / "groups" / f"shard-{shard:04d}"

    def peers(self) -> dict[str, tuple[str, int]]:
        """Return every node's peer address by name, in the order given."""
        return parse_nodes(self.cluster_nodes, "cluster_nodes")

    def metadata_members(self) -> tuple[str, ...]:
        """Return the nodes that vote in the metadata group: the first ones named."""
        return tuple(self.peers())[: self.metadata_members_max]

    def http_peers(self) -> dict[str, tuple[str, int]]:
        """Return every node's HTTP address by name; empty when none was given."""
        return parse_nodes(self.http_nodes, "http_nodes") if self.http_nodes else {}

    @classmethod
    def from_env(cls, env: Mapping[str, str], **overrides: Any) -> Config:
        """Read the environment; `overrides` (from the command line) win.

        Raises:
            ValueError: a value that cannot be read, naming its variable.
        """
        aliases = {"NODE_ID": "node_id", "CLUSTER_NODES": "cluster_nodes"}
        values: dict[str, Any] = {name: env[key] for key, name in aliases.items() if key in env}
        if "RAFT_ELECTION_TIMEOUT" in env:
            values["election_timeout_ms"] = env["RAFT_ELECTION_TIMEOUT"]
        for item in fields(cls):
            key = f"RECOLLECT_{item.name.upper()}"
            if key in env:
                values[item.name] = env[key]
        values.update({name: value for name, value in overrides.items() if value is not None})
        if values.get("checkpoint_url") == NOWHERE:
            values["checkpoint_url"] = ""
        kinds = get_type_hints(cls)
        return cls(**{name: _coerce(name, kinds[name], value) for name, value in values.items()})

    @classmethod
    def tiny(cls, **overrides: Any) -> Config:
        """Return the test preset."""
        small = cls(
            shards=3,
            command_bytes_max=4 * KIB,
            append_bytes_max=4 * KIB,
            inflight_bytes_max=16 * KIB,
            frame_bytes_max=64 * KIB,
            log_bytes_max=8 * KIB,
            log_memory_bytes_max=512 * KIB,
            segment_bytes=32 * KIB,
            snapshot_chunk_bytes=KIB,
        )
        return replace(small, **overrides)


def parse_nodes(text: str, name: str) -> dict[str, tuple[str, int]]:
    """Parse `node1=host:port,node2=host:port`.

    Raises:
        ValueError: a malformed or repeated entry, naming the setting.
    """
    nodes: dict[str, tuple[str, int]] = {}
    for part in text.split(","):
        node, _, address = part.strip().partition("=")
        host, _, port = address.rpartition(":")
        if not node or not host or not port.isdigit() or node in nodes:
            raise ValueError(f"{name}: '{part.strip()}' is not name=host:port, or is repeated")
        nodes[node] = (host.strip("[]"), int(port))
    return nodes


def _coerce(name: str, kind: Any, value: Any) -> Any:
    if kind is bool and isinstance(value, str):
        return value.strip().lower() in {"1", "true", "yes", "on"}
    try:
        return kind(value)
    except (TypeError, ValueError):
        raise ValueError(f"{name}: '{value}' is not a valid {kind.__name__}") from None
