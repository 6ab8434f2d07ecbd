"""The chaos program itself: a few faults of every kind that needs no privileges, judged clean."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.system, pytest.mark.timeout(240)]

KINDS = ("kill leader", "pause", "cut off", "cut one way")


def test_a_few_faults_are_survived_and_judged(tmp_path: Path) -> None:
    """Each kind had its turn, the clients got through, and every zero is a zero."""
    words = ["--minutes", "0.4", "--seed", "5", "--unprivileged", "--kinds", ",".join(KINDS)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos", *words],
        env={"PATH": "/usr/bin:/bin", "TMPDIR": str(tmp_path)},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    rows = dict(re.findall(r"│ (.+?) +│ +([\d,]+) ", done.stdout))
    figures = {name: int(number.replace(",", "")) for name, number in rows.items()}
    assert sum(figures[kind] for kind in KINDS) >= 2
    assert figures["operations"] > 100
    assert figures["acknowledged writes lost"] == 0
    assert figures["linearizability violations (keys)"] == 0
    assert figures["undecided (keys)"] == 0
    assert figures["session reads without own writes"] == 0
    assert figures["hash mismatches"] == 0
    assert not list(tmp_path.glob("recollect-chaos-*")), "a clean run leaves nothing behind"
