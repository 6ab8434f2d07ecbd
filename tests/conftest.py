"""For all tests: Hypothesis without deadlines, on CI the same examples each time; a Postgres."""

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from storage.embedded_postgres import EmbeddedPostgres
from tests.postgres import running_postgres

settings.register_profile("dev", deadline=None, print_blob=True)
settings.register_profile("ci", deadline=None, print_blob=True, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "dev")


@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedPostgres]:
    """A Postgres for all tests; each makes databases of its own."""
    with running_postgres() as server:
        yield server
