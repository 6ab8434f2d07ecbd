"""Makes the table of patterns fit to serve: pgvector, the column of embeddings, and its index.

What a first start decides is kept in stored_pattern_space: the model that embeddings come from, and
their size. A later start with another model finds the old one there, as the nodes of a cluster do:
vectors of two models are never compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from storage.checkpoint.database import Database
from storage.checkpoint.errors import DatabaseRefused
from storage.checkpoint.migrate import migrate
from storage.checkpoint.patterns import INDEXED_DIMENSION_MAX

PGVECTOR_MIN: Final = (0, 8)
"""The first version whose scans go on until a filter has let enough through."""
_EXTENSION: Final = """
SELECT e.extversion AS version, quote_ident(n.nspname) AS schema
FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'vector'
"""
_LOCK: Final = "LOCK TABLE stored_pattern_space IN SHARE ROW EXCLUSIVE MODE"
_SPACE: Final = "SELECT embedding_space, dimension FROM stored_pattern_space"
_KEEP: Final = "INSERT INTO stored_pattern_space (embedding_space, dimension) VALUES ($1, $2)"
_EMBEDDING: Final = """
ALTER TABLE stored_patterns ADD COLUMN embedding {schema}.vector({dimension}) NOT NULL
"""
_INDEX: Final = """
CREATE INDEX stored_patterns_by_embedding ON stored_patterns
USING hnsw (embedding {schema}.vector_cosine_ops) WITH (m = 16, ef_construction = 200)
"""
_WRITABLE: Final = (
    "SELECT NOT pg_is_in_recovery() AND NOT current_setting('transaction_read_only')::bool"
)


@dataclass(frozen=True, slots=True)
class PatternSpace:
    """What the embeddings of the table are, and the schema in which pgvector lies, quoted."""

    embedding_space: str
    dimension: int
    schema: str

    @property
    def is_indexed(self) -> bool:
        """Whether there is an index; pgvector has none for larger vectors."""
        return self.dimension <= INDEXED_DIMENSION_MAX

    def parameter(self, number: int) -> str:
        """Return the SQL of a parameter that is given as a list of floats."""
        return f"${number}::real[]::{self.schema}.vector"


async def prepare(database: Database, embedding_space: str, dimension: int) -> PatternSpace:
    """Bring the schema up to date, and return what embeddings it holds, at first those asked for.

    Raises:
        DatabaseRefused: no pgvector, one that is too old, or no right to make what lacks.
        FormatMismatch: a newer version was here.
    """
    await migrate(database)

    async def work(connection: Any) -> PatternSpace:
        schema = await _pgvector(connection)
        await connection.execute(_LOCK)
        kept = await connection.fetchrow(_SPACE)
        if kept is not None:
            return PatternSpace(kept["embedding_space"], kept["dimension"], schema)
        space = PatternSpace(embedding_space, dimension, schema)
        await connection.execute(_EMBEDDING.format(schema=schema, dimension=dimension))
        if space.is_indexed:
            await connection.execute(_INDEX.format(schema=schema))
        await connection.execute(_KEEP, embedding_space, dimension)
        return space

    return await database.once(work)


async def check(database: Database) -> None:
    """Ask whether the table can be read and written now; raises CheckpointError when not."""

    async def work(connection: Any) -> None:
        if await connection.fetchrow(_SPACE) is None:
            raise DatabaseRefused("the table of patterns has lost its embedding space")
        if not await connection.fetchval(_WRITABLE):
            raise DatabaseRefused("Postgres takes no writes: it is a standby, or read-only")

    await database.once(work)


async def _pgvector(connection: Any) -> str:
    found = await connection.fetchrow(_EXTENSION)
    if found is None:
        await connection.execute("CREATE EXTENSION vector")
        found = await connection.fetchrow(_EXTENSION)
    version = tuple(int(part) for part in found["version"].split(".")[:2])
    if version < PGVECTOR_MIN:
        needed = ".".join(map(str, PGVECTOR_MIN))
        raise DatabaseRefused(f"pgvector {needed} is needed, {found['version']} is there")
    return str(found["schema"])
