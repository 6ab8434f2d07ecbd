"""A long stream of changes, under killed leaders and a listener that changes nodes.

    python -m tests.stream --changes 100000

Every node leads some shards, so a node that is killed is a leader that is killed. A listener that
leaves now and then and one that stays hear every change that was acknowledged, once, and each
shard's in order; else this ends with an error.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from tests.change_listener import Listener
from tests.change_writers import Writers, await_more, expect_all, make_collection
from tests.helpers import Cluster, running_cluster

LONG_S = 900.0
ENTRY = 40


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--changes", type=int, default=100_000)
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--reconnects", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        _run(Path(folder), options.changes, options.kills, options.reconnects)


def _run(folder: Path, changes: int, kills: int, reconnects: int) -> None:
    with running_cluster(folder) as cluster:
        make_collection(cluster)
        leave_after = changes // (reconnects + 1)
        leaving = Listener(cluster.urls, "/changes?collection=load", leave_after)
        staying = Listener(cluster.urls, "/changes")
        writers = Writers(cluster, entry=ENTRY)
        for number in range(kills):
            await_more(leaving, changes // (kills + 1), LONG_S)
            node = number % cluster.nodes + 1
            leads = _led(cluster, node)
            cluster.kill(node)
            cluster.restart(node)
            print(f"killed node{node}, which led {leads} shards, and started it again", flush=True)
        await_more(leaving, changes - len(leaving.taken), LONG_S)
        writers.stop()
        for name, listener in (("leaving", leaving), ("staying", staying)):
            expect_all(listener, writers)
            print(
                f"the {name} listener: {len(listener.taken):,} changes over {listener.streams} "
                "streams, each once, in order"
            )
        print(f"acknowledged: {len(writers.acked):,} points, {len(writers.deleted):,} deletions")


def _led(cluster: Cluster, node: int) -> int:
    """Return how many shards a node leads, as another one sees it."""
    status = cluster.call("GET", "/cluster", node=node % cluster.nodes + 1).result
    return next(int(each["leads"]) for each in status["nodes"] if each["name"] == f"node{node}")


if __name__ == "__main__":
    main()
