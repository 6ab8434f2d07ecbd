"""What a mutant is: one rule of the hardened Raft layer, taken out by the smallest edit.

A mutant that the named tests do not notice means that the rule is not tested, or not needed.
The old text must occur exactly once, so that a mutant cannot rot in silence when code moves.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

LAYER: Final = Path("cluster/raft")
TESTS: Final = Path("tests/unit")


class Rotten(Exception):
    """A mutant no longer fits the code: its old text is gone, or no longer unique."""


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """`defect` is D1 to D21 (several: with spaces), or the rule's name; `file` lies in the
    Raft layer; `tests` are ids below tests/unit, of which one at least must fail."""

    defect: str
    removed: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    hangs: bool = False

    @property
    def path(self) -> Path:
        """Path of the mutated file, from the root of the tree."""
        return LAYER / self.file

    def applied_to(self, text: str) -> str:
        """Return the file's text with the rule removed; raises Rotten."""
        found = text.count(self.old)
        if found != 1:
            raise Rotten(f"{self.path}: {self.old!r} occurs {found} times; {self.removed}")
        return text.replace(self.old, self.new)


def override(name: str, defect: str, removed: str, *tests: str) -> Mutant:
    """Return the mutant in which the stock method `name` shows again."""
    old = f"def _SyncObj__{name}("
    return Mutant(
        defect=defect,
        removed=removed,
        file="core.py",
        old=old,
        new=f"def _removed__{name}(",
        tests=tests,
    )


def journal_name(name: str, defect: str, removed: str, *tests: str) -> Mutant:
    """Return the mutant in which the log does not answer the journal's method `name`."""
    old = f"    def {name}(self"
    return Mutant(
        defect=defect,
        removed=removed,
        file="log.py",
        old=old,
        new=f"    def _removed_{name}(self",
        tests=tests,
    )


def cut(defect: str, removed: str, where: str, old: str, new: str, *tests: str) -> Mutant:
    """Return the mutant of file `where` that has `new` in the place of `old`."""
    return Mutant(defect=defect, removed=removed, file=where, old=old, new=new, tests=tests)


COMMIT: Final = "test_raft_commit.py::test_"
DEFECTS: Final = "test_raft_defects.py::test_"
RECOVERY: Final = "test_raft_recovery.py::test_"
RULES: Final = "test_raft_rules.py::test_"
DISK_FULL: Final = "test_disk_full_raft.py::test_"
ELECTIONS: Final = "test_raft_paper.py::test_"
LOGS: Final = "test_raft_paper_log.py::test_"
SNAPSHOTS: Final = "test_raft_paper_snapshots.py::test_"
THESIS: Final = "test_raft_thesis.py::test_"
RECEIVE: Final = "test_receive.py::test_"
WAL: Final = "test_wal.py::test_"
WAL_RECOVERY: Final = "test_wal_recovery.py::test_"
