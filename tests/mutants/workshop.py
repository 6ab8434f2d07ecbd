"""Copies of the tree in which mutants run, and what came of a run.

Byte code is written by the run of the healthy tree alone: two versions of a file that are equally
long and equally old would share it.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

from tests.mutants.mutant import TESTS, Mutant, Rotten
from tests.mutants.runner import Runner

TREE: Final = ("cluster", "graph", "storage", "tests")
TEST_TIMEOUT_S: Final = 20
FAILED: Final = re.compile(r"^FAILED \S+?/(test_\w+\.py)::(\w+)", re.MULTILINE)
PASSES, FAILS = 0, 1


class Outcome(Enum):
    """What the named tests said to a mutant."""

    KILLED = "killed"
    SURVIVED = "survived"
    TIMED_OUT = "timed out"
    BROKEN = "did not run"


@dataclass(frozen=True)
class Verdict:
    """How it ended, which test noticed, and what pytest printed."""

    mutant: Mutant
    outcome: Outcome
    noticed: str
    output: str

    @property
    def good(self) -> bool:
        """Whether the mutant was noticed as it should be."""
        expected = Outcome.TIMED_OUT if self.mutant.hangs else Outcome.KILLED
        return self.outcome is expected


class Workshop:
    """One copy of the tree; one mutant at a time. `healthy`: `source` is a workshop's own copy,
    whose byte code can be taken along."""

    def __init__(self, source: Path, place: Path, *, healthy: bool) -> None:
        self.place = place
        ignored = shutil.ignore_patterns("system", *(() if healthy else ("__pycache__",)))
        for name in TREE:
            shutil.copytree(source / name, place / name, ignore=ignored)
        shutil.copy(source / "pyproject.toml", place)
        self._runner = Runner(place)

    def check(self, mutants: Sequence[Mutant]) -> None:
        """Raise Rotten for mutants that do not fit, or whose tests fail on the healthy tree."""
        rotten = []
        for mutant in mutants:
            try:
                mutant.applied_to((self.place / mutant.path).read_text())
            except Rotten as reason:
                rotten.append(str(reason))
        if rotten:
            raise Rotten("\n".join(rotten))
        tests = dict.fromkeys(test for mutant in mutants for test in mutant.tests)
        code, output = self._pytest(tests, write_bytecode=True)
        if code != PASSES:
            raise Rotten(f"the tests fail on the healthy tree\n{output}")

    def run(self, mutant: Mutant) -> Verdict:
        """Run a mutant's tests against it; the tree is healthy again afterwards."""
        file = self.place / mutant.path
        text = file.read_text()
        file.write_text(mutant.applied_to(text))
        for stale in file.parent.glob(f"__pycache__/{file.stem}.*.pyc"):
            stale.unlink()
        try:
            code, output = self._pytest(mutant.tests, write_bytecode=False)
        except TimeoutError as reason:
            return Verdict(mutant, Outcome.TIMED_OUT, "", str(reason))
        finally:
            file.write_text(text)
        return judge(mutant, code, output)

    def _pytest(self, tests: Iterable[str], *, write_bytecode: bool) -> tuple[int, str]:
        arguments = ["-p", "tests.mutants.imported", f"--timeout={TEST_TIMEOUT_S}"]
        arguments += [str(TESTS / test) for test in tests]
        return self._runner.run(arguments, write_bytecode=write_bytecode)

    def close(self) -> None:
        """End what runs here."""
        self._runner.close()


def judge(mutant: Mutant, code: int, output: str) -> Verdict:
    """Tell a test that noticed from one that hung and from a tree that cannot be imported."""
    failed = FAILED.search(output)
    noticed = f"{failed[1]}::{failed[2]}" if failed else ""
    if code == PASSES:
        outcome = Outcome.SURVIVED
    elif "Failed: Timeout" in output:
        outcome = Outcome.TIMED_OUT
    elif code == FAILS and failed:
        outcome = Outcome.KILLED
    else:
        outcome = Outcome.BROKEN
    return Verdict(mutant, outcome, noticed, output)
