"""What a checkpoint keeps of the cluster beside its shards: names, numbers and parameters.

It is taken when all shards are written: a collection that is younger than some shard's part has a
number that no restored cluster may give again. What was dropped meanwhile, and has rows in the
parts of earlier shards, stays in the catalog as dropping, and the restored cluster drops it.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from cluster.errors import CommandFailed
from cluster.metadata_command import ClusterView
from cluster.model import Collection, Graph


class Catalog(msgspec.Struct, frozen=True, kw_only=True):
    """See the module. `next_uid` is above every number that was ever given; `ancestors` are the
    clusters whose memory this one goes on with."""

    epoch: int
    shards: int
    replication: int
    next_uid: int
    request_id_ttl_ms: int
    command_bytes_max: int
    collections: Sequence[Collection]
    graphs: Sequence[Graph]
    ancestors: tuple[str, ...] = ()


def catalog_of(view: ClusterView, next_uid: int, before: Catalog | None = None) -> Catalog:
    """Return the catalog of a view; `before` is that of the checkpoint's beginning."""
    collections = [*view.collections.values(), *view.dropping]
    graphs = [*view.graphs.values(), *view.dropping_graphs]
    if before is not None:
        known = {each.uid for each in collections}
        collections += [_going(each) for each in before.collections if each.uid not in known]
        known = {each.uid for each in graphs}
        graphs += [_graph_going(each) for each in before.graphs if each.uid not in known]
    return Catalog(
        epoch=view.epoch,
        shards=view.shards,
        replication=view.replication,
        next_uid=max(next_uid, before.next_uid if before else 0),
        request_id_ttl_ms=view.request_id_ttl_ms,
        command_bytes_max=view.command_bytes_max,
        collections=collections,
        graphs=graphs,
        ancestors=view.origin.ancestors if view.origin else (),
    )


def read_catalog(raw: object) -> Catalog:
    """Return the catalog of a checkpoint; raises CommandFailed when it is none of ours."""
    try:
        return msgspec.convert(raw, Catalog)
    except msgspec.ValidationError as error:
        raise CommandFailed(
            f"the checkpoint's catalog cannot be read ({error})",
            hint="another version of recollect may have written it",
        ) from None


def _going(collection: Collection) -> Collection:
    return msgspec.structs.replace(collection, state="dropping")


def _graph_going(graph: Graph) -> Graph:
    return msgspec.structs.replace(graph, state="dropping")
