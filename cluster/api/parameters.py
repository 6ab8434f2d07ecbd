"""What a request says beside its body: query parameters and headers, read strictly.

Unknown query parameters are refused: a misspelt `consistency` would silently weaken a read.
`wait` and `ordering` are validated and have no effect, because every write is answered after it
is committed and applied, in the order of its shard's log.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable
from typing import Final

from aiohttp import web

from cluster.api.envelope import SESSION_HEADER
from cluster.errors import BadRequest
from cluster.model import SEEN_METADATA, Options, Session

IDEMPOTENCY_HEADER: Final = "Idempotency-Key"
STRONG: Final = frozenset({"majority", "quorum", "all", "strong"})
ORDERINGS: Final = frozenset({"weak", "medium", "strong"})
TRUTH: Final = {"true": True, "false": False}
INDEX_MAX: Final = 2**63 - 1
SHARDS_MAX: Final = 1024
KEY_PATTERN: Final = "^[!-~]{1,255}$"
SESSION_PATTERN: Final = "^((m|[0-9]{1,4}):[0-9]{1,19}(,[0-9]{1,4}:[0-9]{1,19})*)?$"
STALENESS_MAX_MS: Final = 3_600_000
KEY_PARAMETER: Final = "shard_key"

_KEY: Final = re.compile(KEY_PATTERN)
_SESSION: Final = re.compile(SESSION_PATTERN)
_NATURAL: Final = re.compile(r"[0-9]{1,9}")
_REPLICAS: Final = re.compile(r"0*[1-9][0-9]*")
_SECONDS: Final = re.compile(r"[0-9]{1,20}(?:\.[0-9]{1,30})?(?:[eE][+-]?[0-9]{1,3})?")
_NONE: Final = Session()


class Parameters:
    """The parsed query parameters and headers of one request."""

    __slots__ = (
        "allow_partial",
        "idempotency_key",
        "max_staleness_ms",
        "session",
        "shard_key",
        "strong",
        "timeout_s",
    )

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self.strong = False
        self.allow_partial = False
        self.max_staleness_ms: int | None = None
        self.session = _NONE
        self.idempotency_key = ""
        self.shard_key: str | None = None

    def options(self, now_s: float) -> Options:
        """Return how the router should serve the request, its deadline counted from `now_s`."""
        return Options(
            deadline_s=now_s + self.timeout_s,
            strong=self.strong,
            session=self.session,
            allow_partial=self.allow_partial,
            max_staleness_ms=self.max_staleness_ms,
        )


def read_parameters(
    request: web.Request, timeout_limit_s: float, *, keyed: bool = False
) -> Parameters:
    """Parse a request's parameters; `keyed`: one may be `shard_key`.

    Raises:
        BadRequest: an unknown, repeated or malformed one; `field` is its name.
    """
    parameters = Parameters(timeout_limit_s)
    query = request.rel_url.raw_query_string
    if query:
        _read_query(request, parameters, timeout_limit_s, keyed=keyed)
    headers = request.headers
    if SESSION_HEADER in headers:
        parameters.session = parse_session(_single(request, SESSION_HEADER))
    if IDEMPOTENCY_HEADER in headers:
        parameters.idempotency_key = _key(_single(request, IDEMPOTENCY_HEADER))
    return parameters


def parse_session(text: str) -> Session:
    """Read a token `m:index,shard:index,...`; an empty one has seen nothing.

    Raises:
        BadRequest: anything else, or a shard twice.
    """
    if not text:
        return _NONE
    indexes: dict[int, int] = {}
    if _SESSION.fullmatch(text):
        for part in text.split(","):
            name, _, index = part.partition(":")
            shard = SEEN_METADATA if name == "m" else int(name)
            if shard >= SHARDS_MAX or int(index) > INDEX_MAX or shard in indexes:
                break
            indexes[shard] = int(index)
        else:
            return Session(indexes)
    raise BadRequest("a session token is as an answer carried it", field=SESSION_HEADER)


def request_digest(body: bytes) -> str:
    """Return what tells a repeated request from another one under the same key.

    It is that of the body as it came: so a key used again for other data cannot swallow that data.
    """
    return hashlib.blake2b(body, digest_size=16).hexdigest()


def scoped_id(key: str, *scope: str) -> str:
    """Return the request id of a key, which is its own in each operation and collection."""
    text = "\0".join((key, *scope))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _read_query(
    request: web.Request, parameters: Parameters, timeout_limit_s: float, *, keyed: bool
) -> None:
    seen: set[str] = set()
    for name, value in request.rel_url.query.items():
        if name in seen:
            raise BadRequest("the parameter is given twice", field=name)
        seen.add(name)
        if name == "timeout":
            parameters.timeout_s = min(_seconds(value), timeout_limit_s)
            continue
        if name == KEY_PARAMETER and keyed:
            parameters.shard_key = value
            continue
        reader = _READERS.get(name)
        if reader is None:
            raise BadRequest("unknown query parameter", field=name[:255])
        reader(parameters, value)


def _read_consistency(parameters: Parameters, value: str) -> None:
    lowered = value.lower()
    if lowered in STRONG:
        parameters.strong = True
    elif lowered and not _REPLICAS.fullmatch(lowered):
        raise BadRequest(
            "consistency is majority, quorum, all, strong or a number of replicas",
            field="consistency",
        )


def _read_allow_partial(parameters: Parameters, value: str) -> None:
    parameters.allow_partial = _truth(value, "allow_partial")


def _read_staleness(parameters: Parameters, value: str) -> None:
    if not _NATURAL.fullmatch(value) or int(value) > STALENESS_MAX_MS:
        raise BadRequest(
            f"max_staleness_ms is 0..{STALENESS_MAX_MS} milliseconds", field="max_staleness_ms"
        )
    parameters.max_staleness_ms = int(value)


def _read_wait(parameters: Parameters, value: str) -> None:
    del parameters
    _truth(value, "wait")


def _read_ordering(parameters: Parameters, value: str) -> None:
    del parameters
    if value.lower() not in ORDERINGS:
        raise BadRequest("ordering is weak, medium or strong", field="ordering")


_READERS: Final[dict[str, Callable[[Parameters, str], None]]] = {
    "consistency": _read_consistency,
    "max_staleness_ms": _read_staleness,
    "allow_partial": _read_allow_partial,
    "wait": _read_wait,
    "ordering": _read_ordering,
}

PARAMETER_NAMES: Final = ("timeout", *_READERS)


def _truth(value: str, field: str) -> bool:
    found = TRUTH.get(value.lower())
    if found is None:
        raise BadRequest(f"{field} is true or false", field=field)
    return found


def _seconds(value: str) -> float:
    seconds = float(value) if _SECONDS.fullmatch(value) else 0.0
    if not (seconds > 0 and math.isfinite(seconds)):
        raise BadRequest("timeout is a positive number of seconds", field="timeout")
    return seconds


def _single(request: web.Request, header: str) -> str:
    values = request.headers.getall(header)
    if len(values) > 1:
        raise BadRequest("the header is given twice", field=header)
    return values[0].strip()


def _key(text: str) -> str:
    if not _KEY.fullmatch(text):
        raise BadRequest(
            "an idempotency key has 1 to 255 visible ASCII characters", field=IDEMPOTENCY_HEADER
        )
    return text
