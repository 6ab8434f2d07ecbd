"""What an answer about a graph needs beside the question, and how refusals are retold."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from cluster.errors import BadRequest, GraphConflict, NotFound, UnsupportedFeature
from cluster.graph_memory import GraphInMemory
from cluster.graph_questions import GraphRead
from graph import errors
from graph.budget import Budget
from graph.state import GraphState


@dataclass(frozen=True, kw_only=True)
class Circumstances:
    """What an answer needs beside the graph.

    `clock`, `deadline_s` and `pause` are as `graph.budget` takes them. `vectors(kind, ids)` reads
    float32 bytes of elements, and `nearest(kind, vector, k)` finds the elements nearest to a
    vector, as (id, score), best first. `changes_bytes_max` is how much a query may
    write, `answer_bytes_max` how much it may answer.
    """

    clock: Callable[[], float]
    deadline_s: float
    pause: Callable[[], None]
    wall_ms: int
    identifier: Callable[[], str]
    vectors: Callable[[str, list[str]], dict[str, bytes]]
    nearest: Callable[[str, bytes, int], list[tuple[str, float]]]
    changes_bytes_max: int
    answer_bytes_max: int

    def budget(self, expansions_max: int) -> Budget:
        """Return how much work the answer may be."""
        return Budget(
            expansions_max, deadline_s=self.deadline_s, clock=self.clock, pause=self.pause
        )


@dataclass(frozen=True, slots=True)
class Asked:
    """A question on its way to an answer from one state of a graph."""

    graph: GraphInMemory
    state: GraphState
    read: GraphRead
    around: Circumstances
    budget: Budget
    """How much work the answer may be."""


@contextmanager
def retold() -> Iterator[None]:
    """Retell what a graph refuses."""
    try:
        yield
    except errors.UnsupportedClause as error:
        raise UnsupportedFeature(error.message, field=error.field or "query") from None
    except (errors.NodeMissing, errors.EdgeMissing) as error:
        raise NotFound(error.message, field=error.field) from None
    except errors.NodeInUse as error:
        raise GraphConflict(error.message, field=error.field) from None
    except errors.GraphError as error:
        raise BadRequest(error.message, field=error.field) from None
