"""A pool of connections to one Postgres, on which whole transactions are run, and run again.

Postgres may be slow, restarting, out of connections or of space, and a transaction may lose a race
with another: all that passes, so the work is done anew after a pause that grows, as long as there
is patience. Work is therefore given as a function, and must be able to find that an earlier attempt
has committed after all: a connection can break after the commit and before its answer.

The URL holds a password. It is in no message, and in no error's chain.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from types import MappingProxyType
from typing import Any, Final, Literal, TypeVar

import asyncpg
from tenacity import (
    AsyncRetrying,
    retry_if_exception_type,
    stop_after_delay,
    wait_random_exponential,
)

from storage.checkpoint.errors import (
    CheckpointError,
    DatabaseFull,
    DatabaseRefused,
    DatabaseUnavailable,
)

CONNECT_S: Final = 10.0
PATIENCE_S: Final = 60.0
_CLOSE_S: Final = 5.0
_PAUSE_MAX_S: Final = 5.0
_SETTINGS: Final = {
    "application_name": "recollect",
    "idle_in_transaction_session_timeout": "120000",
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
}
"""A node that vanished must not hold locks for hours."""
_PASSING_CLASSES: Final = ("08", "40", "53", "57", "58")
_PASSING_CODES: Final = ("25P03", "55P03", "XX000")
"""SQLSTATE of what passes: connections, lost races, resources, shutdowns, the server's system."""
_DISK_FULL: Final = "53100"

Isolation = Literal["read_committed", "repeatable_read"]
ValueType = TypeVar("ValueType")


class Database:
    """See the module. `patience_s` is how long an operation is tried again."""

    def __init__(self, pool: Any, patience_s: float) -> None:
        self._pool = pool
        self._patience_s = patience_s

    @classmethod
    @asynccontextmanager
    async def opened(
        cls,
        url: str,
        *,
        connections: int = 4,
        patience_s: float = PATIENCE_S,
        settings: Mapping[str, str] = MappingProxyType({}),
    ) -> AsyncIterator[Database]:
        """Yield a pool for the database of a URL; it connects, with these settings, when used."""
        pool = await asyncpg.create_pool(
            url,
            min_size=0,
            max_size=connections,
            timeout=CONNECT_S,
            server_settings={**_SETTINGS, **settings},
            reset=_keep,
        )
        try:
            yield cls(pool, patience_s)
        finally:
            await _close(pool)

    async def run(
        self,
        work: Callable[[Any], Awaitable[ValueType]],
        *,
        isolation: Isolation = "read_committed",
        readonly: bool = False,
    ) -> ValueType:
        """Run a function of a connection in a transaction of its own, anew when that may help.

        Raises CheckpointError.
        """
        async for attempt in self._attempts():
            with attempt:
                return await self.once(work, isolation=isolation, readonly=readonly)
        raise AssertionError("attempts end with a result or an error")

    async def once(
        self,
        work: Callable[[Any], Awaitable[ValueType]],
        *,
        isolation: Isolation = "read_committed",
        readonly: bool = False,
    ) -> ValueType:
        """Run a function of a connection in a transaction of its own, whatever comes of it."""
        with failures_named():
            async with (
                self._connected() as connection,
                connection.transaction(isolation=isolation, readonly=readonly),
                _while_connected(connection),
            ):
                return await work(connection)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Any]:
        """Lend a connection, on which a statement is a transaction; raises CheckpointError."""
        with failures_named():
            async with self._connected() as connection:
                yield connection

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[Any]:
        acquiring = self._pool.acquire(timeout=CONNECT_S)
        try:
            connection = await acquiring
        except ValueError:
            raise DatabaseRefused("the URL of the database cannot be read") from None
        try:
            yield connection
        finally:
            await self._pool.release(connection)

    def _attempts(self) -> AsyncRetrying:
        return AsyncRetrying(
            retry=retry_if_exception_type(DatabaseUnavailable),
            stop=stop_after_delay(self._patience_s),
            wait=wait_random_exponential(multiplier=0.1, max=_PAUSE_MAX_S),
            reraise=True,
        )


@asynccontextmanager
async def _while_connected(connection: Any) -> AsyncIterator[None]:
    """Let the block wait for nothing once the connection is lost; raises DatabaseUnavailable.

    The driver's COPY waits until it may send more, and does not hear that it never will.
    """
    loop = asyncio.get_running_loop()
    is_over = False

    def lost(_connection: Any) -> None:
        if not is_over:
            limit.reschedule(loop.time())

    try:
        async with asyncio.timeout(None) as limit:
            connection.add_termination_listener(lost)
            try:
                yield
            finally:
                is_over = True
                with suppress(asyncpg.InterfaceError):
                    connection.remove_termination_listener(lost)
    except TimeoutError:
        raise DatabaseUnavailable("the connection to Postgres was lost") from None


async def _keep(_connection: Any) -> None:
    """Leave a connection as it is: all that is ever set is set for one transaction.

    The pool itself sees to a transaction that is still open. The driver's own reset would be one
    more question after each transaction, and those of a small checkpoint are many and short.
    """


async def _close(pool: Any) -> None:
    """Close all connections; those that stay in use are cut."""
    try:
        async with asyncio.timeout(_CLOSE_S):
            await pool.close()
    except TimeoutError:
        pool.terminate()


@contextmanager
def failures_named() -> Iterator[None]:
    """Raise what the driver raises as a CheckpointError."""
    try:
        yield
    except CheckpointError:
        raise
    except asyncpg.PostgresError as error:
        raise _named(error) from None
    except asyncpg.InterfaceError as error:
        raise DatabaseUnavailable(f"the connection to Postgres broke: {error}") from None
    except asyncpg.InternalClientError:
        raise DatabaseUnavailable("the connection to Postgres is out of step") from None
    except OSError as error:
        said = error.strerror or type(error).__name__
        raise DatabaseUnavailable(f"Postgres cannot be reached: {said}") from None


def _named(error: Any) -> CheckpointError:
    code = str(error.sqlstate or "")
    text = f"Postgres says: {error} ({code})"
    if code == _DISK_FULL:
        return DatabaseFull(text)
    if code[:2] in _PASSING_CLASSES or code in _PASSING_CODES:
        return DatabaseUnavailable(text)
    return DatabaseRefused(text)
