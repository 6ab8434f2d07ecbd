"""A subset of openCypher on a graph: reads and writes, within limits.

A query goes this way: `parse` makes a tree of the text; `run` compiles its clauses against one
state of the graph into closures and generators, through which rows flow; what comes out becomes
plain JSON and, when the query writes, a set of changes for the log.
"""

from graph.cypher.explain import explain
from graph.cypher.parser import parse
from graph.cypher.run import Outcome, final_slice, run
from graph.cypher.runtime import RunContext
from graph.cypher.tree import Query
from graph.cypher.values import merge_key

__all__ = [
    "Outcome",
    "Query",
    "RunContext",
    "explain",
    "final_slice",
    "merge_key",
    "parse",
    "run",
]
