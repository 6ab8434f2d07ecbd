"""All mutants, by the part of the Raft layer that they maim."""

from __future__ import annotations

from typing import Final

from tests.mutants.mutant import Mutant
from tests.mutants.of_core import CORE
from tests.mutants.of_elections import ELECTION_RULES
from tests.mutants.of_group import GROUP
from tests.mutants.of_log import LOG
from tests.mutants.of_messages import MESSAGES
from tests.mutants.of_replication import REPLICATION
from tests.mutants.of_wal import WRITE_AHEAD_LOG

MUTANTS: Final[tuple[Mutant, ...]] = (
    *CORE,
    *GROUP,
    *MESSAGES,
    *ELECTION_RULES,
    *REPLICATION,
    *LOG,
    *WRITE_AHEAD_LOG,
)
