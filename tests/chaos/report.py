"""The tables at the end of a run."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from rich.table import Table

from tests.chaos.arena import Arena
from tests.chaos.checks import Findings
from tests.chaos.load import READS
from tests.chaos.schedule import Tally


def fault_table(tallies: Sequence[Tally], title: str) -> Table:
    """One line a kind: how often, and for how long some shard took no writes when it came alone."""
    table = Table(title=title)
    table.add_column("fault")
    for column in ("times", "write gap p50 s", "max s", "healed p50 s", "max s"):
        table.add_column(column, justify="right")
    for tally in tallies:
        if tally.skipped:
            table.add_row(tally.fault.name, f"skipped: {tally.skipped}")
            continue
        figures = [
            f"{value:.1f}"
            for seconds in (tally.gaps_s, tally.heals_s)
            for value in ((median(seconds), max(seconds)) if seconds else ())
        ]
        table.add_row(tally.fault.name, str(tally.times), *figures)
    return table


def summary_table(arena: Arena, findings: Findings, gap_s: float) -> Table:
    """What was done, and what was found."""
    history = arena.history
    table = Table(title="what the clients saw")
    table.add_column("")
    table.add_column("", justify="right")
    for kind, times in sorted(history.times.items()):
        table.add_row(kind, f"{times:,}")
    total = sum(times for kind, times in history.times.items() if kind != "sweep")
    table.add_row("operations", f"{total:,}")
    table.add_row("keys", f"{len(history.keys):,}")
    table.add_row("acknowledged writes", f"{_acknowledged(arena):,}")
    table.add_row("conditions that did not hold", f"{history.conflicts:,}")
    table.add_row("unknown outcomes", f"{sum(history.unknown.values()):,}")
    table.add_row("longest write gap s", f"{gap_s:.1f}")
    if arena.marks:
        table.add_row("power cuts that took what was not synced", _share(arena))
    table.add_section()
    for name, number in failures(arena, findings).items():
        table.add_row(name, f"{number:,}", style="bold red" if number else "green")
    return table


def failures(arena: Arena, findings: Findings) -> dict[str, int]:
    """Return what must be zero."""
    return {
        "acknowledged writes lost": len(findings.lost),
        "linearizability violations (keys)": len(findings.not_linearizable),
        "undecided (keys)": len(findings.undecided),
        "stale strong reads": findings.stale,
        "session reads without own writes": len(findings.unseen_own_writes),
        "session reads that went back": len(findings.backwards),
        "values that nobody wrote": len(findings.invented),
        "hash mismatches": len(findings.hashes),
        "counts and searches that disagree": len(findings.searches),
        "unexpected answers": len(arena.history.surprises),
        "other violations": len(arena.violations),
        "power cuts that cut nothing": arena.marks - arena.marks_lost,
    }


def _acknowledged(arena: Arena) -> int:
    history = arena.history
    writes = [kind for kind in history.times if kind not in READS]
    known = sum(history.times[kind] - history.unknown[kind] for kind in writes)
    return known - history.conflicts


def _share(arena: Arena) -> str:
    return f"{arena.marks_lost} of {arena.marks}"
