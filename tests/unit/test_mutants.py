"""The catalogue of mutants fits the code, and misses no override and no defect."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from pysyncobj import SyncObj
from pysyncobj.journal import Journal

from cluster.raft.core import HardenedCore
from cluster.raft.group import RaftGroup
from cluster.raft.log import GroupLog
from tests.mutants.catalogue import MUTANTS
from tests.mutants.mutant import TESTS, Mutant, Rotten, cut
from tests.mutants.workshop import Outcome, judge

ROOT = Path(__file__).resolve().parents[2]


def removed_by(name: str, file: str) -> list[Mutant]:
    """The mutants that rename a method away."""
    return [m for m in MUTANTS if m.file == file and f"def {name}(" in m.old + "("]


def test_every_mutant_fits_the_code() -> None:
    """Its old text occurs once, and what it puts there can still be compiled."""
    for mutant in MUTANTS:
        text = (ROOT / mutant.path).read_text()
        maimed = mutant.applied_to(text)
        assert maimed != text
        compile(maimed, mutant.file, "exec")


def test_every_mutant_names_tests_that_exist() -> None:
    """A test that was renamed would let its mutant live."""
    known: dict[str, set[str]] = {}
    for mutant in MUTANTS:
        assert mutant.tests, mutant.removed
        for test in mutant.tests:
            file, _, name = test.partition("::")
            if file not in known:
                tree = ast.parse((ROOT / TESTS / file).read_text())
                known[file] = {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}
            assert name in known[file], test


def test_no_mutant_is_listed_twice() -> None:
    """The same edit of the same file counts once."""
    edits = [(mutant.file, mutant.old, mutant.new) for mutant in MUTANTS]
    assert len(set(edits)) == len(edits)


def test_every_override_of_the_stock_core_has_a_mutant_that_names_its_defect() -> None:
    """What no mutant removes may be there for nothing."""
    stock = set(vars(SyncObj))
    overrides = {
        name for kind in (HardenedCore, RaftGroup) for name in vars(kind) if name in stock
    } - set(vars(object))
    overrides -= {"__module__", "__doc__"}
    assert len(overrides) >= 7
    for name in overrides:
        assert removed_by(name, "core.py"), f"{name} has no mutant"


def test_every_name_of_the_journal_that_the_log_answers_has_a_mutant() -> None:
    """As with the core's overrides."""
    names = set(vars(Journal)) & set(vars(GroupLog)) - set(vars(object)) - {"__module__", "__doc__"}
    assert {"add", "deleteEntriesFrom", "setCurrentTerm"} <= names
    for name in names - {"__getitem__"}:
        assert any(m.file == "log.py" and f"def {name}(" in f"{m.old}(" for m in MUTANTS), name
    assert any("def __getitem__(" in mutant.old for mutant in MUTANTS)


def test_every_defect_has_a_mutant() -> None:
    """D1 to D21, as the table in `cluster.raft.group` lists them."""
    named = {word for mutant in MUTANTS for word in mutant.defect.split()}
    assert {f"D{number}" for number in range(1, 22)} <= named


def test_a_mutant_whose_text_is_gone_or_ambiguous_is_refused() -> None:
    """It would survive, or maim something else."""
    mutant = cut("D1", "a rule", "log.py", "old", "new", "test_x.py::test_y")
    assert mutant.applied_to("the old text") == "the new text"
    for text in ("no such text", "old and old"):
        with pytest.raises(Rotten):
            mutant.applied_to(text)


@pytest.mark.parametrize(
    ("code", "output", "outcome", "noticed"),
    [
        (0, "1 passed", Outcome.SURVIVED, ""),
        (1, "FAILED tests/unit/test_x.py::test_y[a] - x", Outcome.KILLED, "test_x.py::test_y"),
        (1, "FAILED tests/unit/test_x.py::test_y - Failed: Timeout", Outcome.TIMED_OUT, None),
        (1, "ERROR tests/unit/test_x.py::test_y - fixture", Outcome.BROKEN, ""),
        (2, "ERROR tests/unit/test_x.py - ImportError", Outcome.BROKEN, ""),
        (9, "imported elsewhere", Outcome.BROKEN, ""),
    ],
)
def test_only_a_test_that_failed_has_noticed(
    code: int, output: str, outcome: Outcome, noticed: str | None
) -> None:
    """A tree that cannot be imported proves nothing, nor does a run that hangs."""
    verdict = judge(MUTANTS[0], code, output)
    assert verdict.outcome is outcome
    assert noticed is None or verdict.noticed == noticed
    assert verdict.good is (outcome is Outcome.KILLED)
