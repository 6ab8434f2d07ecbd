"""Searches that need none of what the general way is made for: no task, no router, no middleware.

A request of the common shape (a search by a vector on a keep-alive connection, its small body here
in one piece, nothing special in its head) is decoded with the same strictness as any other, its
search is begun, and it is answered from a callback. At the first sign of anything else, a refusal
included, the request goes the general way from its beginning. So this module knows one answer, 200.

It takes parsed messages: bytes from the network are aiohttp's business here, too.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from itertools import takewhile
from typing import Final, Protocol

import orjson
from aiohttp import hdrs
from aiohttp.helpers import rfc822_formatted_time
from aiohttp.http import HttpVersion11, RawRequestMessage
from msgspec import UNSET, Raw, UnsetType

from cluster.api.backend import Api
from cluster.api.body import BodyBudget
from cluster.api.envelope import SERVER, SESSION_HEADER, failure
from cluster.api.forms import JSON_TYPE
from cluster.api.known_filters import KnownFilters
from cluster.api.middleware import KeyCheck
from cluster.api.parameters import IDEMPOTENCY_HEADER
from cluster.api.query import EF_MAX, LIMIT_DEFAULT
from cluster.api.route import GRACE_S
from cluster.api.schema import Limit, Positive, RequestBody, VectorIn, given
from cluster.api.strict_json import StrictDecoder
from cluster.errors import DeadlineExceeded, RecollectError
from cluster.quick_search import QuickQuery, QuickSearch, Turns, Where
from storage.filters import Filter

BODY_BYTES_MAX: Final = 64 * 1024
"""Larger bodies may come in pieces, which the general way reads within its limits."""

_PATH: Final = re.compile(
    r"/collections/([A-Za-z0-9_-][A-Za-z0-9_.-]{0,254})/points/(query|search)"
)
_ROUTES: Final = {
    kind: f"/collections/{{collection_name}}/points/{kind}" for kind in ("query", "search")
}
_GENERAL: Final = (
    SESSION_HEADER,
    IDEMPOTENCY_HEADER,
    hdrs.EXPECT,
    hdrs.CONTENT_ENCODING,
    hdrs.TRANSFER_ENCODING,
)
"""Headers that change what a request means."""
_ANSWER_TYPES: Final = frozenset({None, "*/*", JSON_TYPE})
_BODY_TYPES: Final = frozenset({None, JSON_TYPE})


class Observer(Protocol):
    """Counts answers, as `cluster.api.metrics` does."""

    def observe(self, method: str, route: str, status: int, seconds: float | None) -> None:
        """Count one answered request."""
        ...


Answered = Callable[[bytes | None], None]
"""Takes a response's bytes, or None: the request goes the general way after all."""


class QuickParams(RequestBody):
    """Of `params`, what is quick."""

    hnsw_ef: Positive | UnsetType | None = UNSET


class QuickQueryBody(RequestBody):
    """Of `QueryPoints`, what is quick."""

    query: VectorIn
    limit: Limit | UnsetType | None = UNSET
    params: QuickParams | UnsetType | None = UNSET
    with_payload: bool | UnsetType | None = UNSET
    filter: Raw | UnsetType = UNSET


class QuickSearchBody(RequestBody):
    """Of `SearchPoints`, what is quick."""

    vector: VectorIn
    limit: Limit
    params: QuickParams | UnsetType | None = UNSET
    with_payload: bool | UnsetType | None = UNSET
    filter: Raw | UnsetType = UNSET


class QuickRoute:
    """See the module."""

    def __init__(self, api: Api, searches: QuickSearch, observer: Observer | None = None) -> None:
        """`observer` counts answers where it is not the node that does, but a search worker.

        There no answer is watched over: one that waits goes back to the node before long.
        """
        in_worker = observer is not None
        self._api = api
        self._bodies = BodyBudget(api.bodies.bytes_max) if in_worker else api.bodies
        self._observer = observer or api.metrics
        self._searches = searches
        self._keys = KeyCheck(api.config.api_key)
        self.timeout_s: Final = api.config.request_timeout_ms / 1000
        """How long an answer may take."""
        self._query_decoder = StrictDecoder(QuickQueryBody)
        self._search_decoder = StrictDecoder(QuickSearchBody)
        self._filters = KnownFilters()
        self._deadlines = None if in_worker else _Deadlines(self.timeout_s + GRACE_S)

    def in_worker(self, turns: Turns, observer: Observer) -> QuickRoute:
        """Return the same for a search worker: with its searches, counts and budget of bodies."""
        return QuickRoute(self._api, self._searches.in_worker(turns), observer)

    def admits(self, message: RawRequestMessage) -> bool:
        """Return whether a request could have a quick answer, by its head."""
        headers = message.headers
        length = headers.get(hdrs.CONTENT_LENGTH)
        return (
            message.method == "POST"
            and _PATH.fullmatch(message.path) is not None
            and message.version == HttpVersion11
            and not message.should_close
            and not message.upgrade
            and length is not None
            and 0 < int(length) <= BODY_BYTES_MAX
            and headers.get(hdrs.CONTENT_TYPE) in _BODY_TYPES
            and headers.get(hdrs.ACCEPT) in _ANSWER_TYPES
            and not any(name in headers for name in _GENERAL)
        )

    def begin(self, message: RawRequestMessage, body: bytes, answered: Answered) -> bool:
        """Begin to answer a request that is admitted; False: it is for the general way.

        The answer may come before this returns.
        """
        started_s = self._api.clock()
        path = _PATH.fullmatch(message.path)
        assert path is not None, "the request is admitted"
        name, kind = path.groups()
        try:
            self._keys.check(message)
            with self._bodies.claim() as claim:
                claim.grow(len(body))
                claim.grow_decoded(len(body) // 2)  # a value and its comma; to count costs more
                query = self._read(name, kind, body)
        except RecollectError:
            return False
        if query.limit > self._api.config.limit_max:
            return False
        answer = _Answer(self, kind, started_s, answered)
        if not self._searches.begin(query, answer.found):
            return False
        if answer.is_awaited and self._deadlines is not None:
            self._deadlines.add(answer)
        return True

    def _read(self, name: str, kind: str, body: bytes) -> QuickQuery:
        asked: QuickQueryBody | QuickSearchBody
        if kind == "query":
            asked = query = self._query_decoder.decode(body)
            vector = query.query
        else:
            asked = search = self._search_decoder.decode(body)
            vector = search.vector
        ef = given(asked.params.hnsw_ef, None) if isinstance(asked.params, QuickParams) else None
        return QuickQuery(
            name,
            vector,
            given(asked.limit, LIMIT_DEFAULT),
            None if ef is None else min(ef, EF_MAX),
            asked.with_payload is True,
            self._where(asked.filter),
        )

    def ended(self, answer: _Answer) -> None:
        """An answer has come."""
        if self._deadlines is not None:
            self._deadlines.forget(answer)

    def observed(self, kind: str, started_s: float, status: int) -> float:
        """Count an answered request; return how long it took, in seconds."""
        seconds = self._api.clock() - started_s
        self._observer.observe("POST", _ROUTES[kind], status, seconds)
        return seconds

    def observed_elsewhere(self, route: str, seconds: float) -> None:
        """Count a request that a search worker answered."""
        self._observer.observe("POST", route, 200, seconds)

    def filter_of(self, text: bytes) -> Filter | None:
        """Return the filter that a text is which a worker has read."""
        return self._filters.read(text)

    def session_token(self) -> str:
        """Return the token of a read that ends now."""
        return self._searches.session_token()

    def _where(self, text: Raw | UnsetType) -> Where | None:
        if text is UNSET:
            return None
        raw = bytes(text)
        where = self._filters.read(raw)
        return None if where is None else Where(raw, where)


class _Deadlines:
    """Ends answers whose time ran out. All have the same time, so they end in the order in which
    they began, and one timer serves them all."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._awaited: dict[_Answer, float] = {}
        """When the time of each runs out, by the event loop's clock; the first comes first."""
        self._armed = False

    def add(self, answer: _Answer) -> None:
        """Watch over an answer that is awaited from now on."""
        loop = asyncio.get_running_loop()
        self._awaited[answer] = loop.time() + self._seconds
        if not self._armed:
            self._armed = True
            loop.call_later(self._seconds, self._look)

    def forget(self, answer: _Answer) -> None:
        """An answer has come."""
        self._awaited.pop(answer, None)

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        late = list(takewhile(lambda each: self._awaited[each] <= now_s, self._awaited))
        for answer in late:
            del self._awaited[answer]
        self._armed = bool(self._awaited)
        if self._awaited:
            loop.call_later(next(iter(self._awaited.values())) - now_s, self._look)
        for answer in late:
            answer.too_late()


class _Answer:
    """An answer on its way: what the search found, or that time ran out, whichever comes first."""

    __slots__ = ("_answered", "_kind", "_route", "_started_s")

    def __init__(self, route: QuickRoute, kind: str, started_s: float, answered: Answered) -> None:
        self._route = route
        self._kind = kind
        self._started_s = started_s
        self._answered: Answered | None = answered

    @property
    def is_awaited(self) -> bool:
        """Whether nothing was answered yet."""
        return self._answered is not None

    def found(self, hits: bytes | BaseException) -> None:
        """Take a search's hits as JSON; an error is the general way's to find again and explain."""
        answered, self._answered = self._answered, None
        if answered is None:
            return
        self._route.ended(self)
        if isinstance(hits, BaseException):
            answered(None)
            return
        seconds = self._observed(200)
        result = hits if self._kind == "search" else b'{"points":%b}' % hits
        body = b'{"result":%b,"status":"ok","time":%b}' % (result, orjson.dumps(seconds))
        token = self._route.session_token()
        session = f"{SESSION_HEADER}: {token}\r\n" if token else ""
        answered(_head("200 OK", len(body), session) + body)

    def too_late(self) -> None:
        """Answer that time ran out, unless there is an answer already."""
        answered, self._answered = self._answered, None
        if answered is not None:
            error = DeadlineExceeded("the request's time ran out")
            refused = failure(error, self._observed(error.status))
            body = refused.body
            assert isinstance(body, bytes), "an envelope is bytes"
            retry = f"Retry-After: {refused.headers['Retry-After']}\r\n"
            answered(_head(f"{refused.status} {refused.reason}", len(body), retry) + body)

    def _observed(self, status: int) -> float:
        return self._route.observed(self._kind, self._started_s, status)


def _head(status: str, length: int, more: str) -> bytes:
    """Return a response's first line and headers; `more` are whole lines."""
    return (
        f"HTTP/1.1 {status}\r\nContent-Type: {JSON_TYPE}\r\nServer: {SERVER}\r\n{more}"
        f"Content-Length: {length}\r\nDate: {rfc822_formatted_time()}\r\n\r\n"
    ).encode()
