"""One cluster for all tests that only talk to it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.helpers import Cluster, running_cluster


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three nodes that nobody kills; each test file makes collections of its own."""
    with running_cluster(tmp_path_factory.mktemp("shared")) as cluster:
        yield cluster
