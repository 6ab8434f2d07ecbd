"""A graph, seen through one node: every answer is held against the description of the API."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from tests.helpers import Response
from tests.system.description import description
from tests.system.exchange import SESSION, refusal, send

Item = Mapping[str, Any]


def asked(url: str, method: str, path: str, body: Any = None, **options: Any) -> Response:
    """Send a request; fail unless its answer is as it is described.

    What succeeds carries a session token, and what fails the promised envelope.
    """
    response = send(url, method, path, body, **options)
    description(url).check(method, path, response)
    if response.status == 200:
        assert response.headers[SESSION], (method, path)
    else:
        refusal(response)
    return response


@dataclass(frozen=True)
class Graph:
    """See the module."""

    url: str
    name: str

    @property
    def path(self) -> str:
        return f"/graph/{self.name}"

    def at(self, url: str) -> Graph:
        """Return the same graph as another node serves it."""
        return replace(self, url=url)

    def post(self, what: str, body: Any, query: str = "", **options: Any) -> Response:
        """Send a request about the graph."""
        path = f"{self.path}/{what}{query}"
        return asked(self.url, "POST", path, body, **options)

    def ask(self, what: str, **body: Any) -> Any:
        """Return the answer to a question; fail unless there is one."""
        return self.post(what, body).result

    def put_nodes(self, *nodes: Item, **options: Any) -> Response:
        """Write nodes; fail unless they are acknowledged."""
        response = self.post("nodes", {"nodes": list(nodes)}, **options)
        assert response.result["ids"] == [node["id"] for node in nodes]
        return response

    def put_edges(self, *edges: Item, **options: Any) -> Response:
        """Write hyperedges; fail unless they are acknowledged."""
        response = self.post("edges", {"edges": list(edges)}, **options)
        assert len(response.result["ids"]) == len(edges)
        return response

    def describe(self) -> Any:
        return asked(self.url, "GET", self.path).result

    def nodes(self, *ids: str, **body: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.ask("nodes/get", ids=list(ids), **body)
        return found

    def edges(self, *ids: str, **body: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.ask("edges/get", ids=list(ids), **body)
        return found

    def cypher(self, query: str, *, limit: int = 1000, **parameters: Any) -> Any:
        """Return columns and rows of a query that must not be cut short."""
        found = self.ask("cypher", query=query, parameters=parameters, limit=limit)
        assert (found["truncated"], found["truncated_by"]) == (False, None)
        return found

    def rows(self, query: str, **parameters: Any) -> list[Any]:
        """Return the rows of a query; those of a single column without their list."""
        found = self.cypher(query, **parameters)
        single = len(found["columns"]) == 1
        return [row[0] if single else row for row in found["rows"]]


def make_graph(url: str, name: str, body: Any = None, **options: Any) -> Graph:
    """Create a graph; fail unless it is new."""
    created = asked(url, "PUT", f"/graph/{name}", body or {}, **options).result
    assert created == {"name": name, "created": True}
    return Graph(url, name)


def ids_of(paths: Iterable[Item]) -> list[list[str]]:
    """Return the ids of the nodes along each path."""
    return [[node["id"] for node in path["nodes"]] for path in paths]


def named(*ids: str, **more: Any) -> list[dict[str, Any]]:
    """Return nodes to write that are only names, or alike."""
    return [{"id": each, **more} for each in ids]


def chained(label: str, *members: str, **more: Any) -> dict[str, Any]:
    """Return an ordered hyperedge to write."""
    return {"label": label, "members": list(members), **more}
