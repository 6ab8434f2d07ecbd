"""Recall against searches a second, one line a system: up and to the right is better."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol


class Place(Protocol):
    """One place on a curve."""

    @property
    def ef(self) -> int:
        """The beam width."""

    @property
    def recall(self) -> float:
        """Share of the true nearest that were found."""

    @property
    def rate(self) -> float:
        """Searches a second."""


def draw(path: Path, curves: Mapping[str, Sequence[Place]], data: str) -> None:
    """Write the picture; its form is that of the file's name.

    Raises SystemExit when matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import FuncFormatter
    except ImportError:
        raise SystemExit("a picture needs matplotlib: pip install -e '.[bench]'") from None
    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.add_subplot()
    for name, places in curves.items():
        rates = [place.rate for place in places]
        axes.plot([place.recall for place in places], rates, marker="o", markersize=4, label=name)
        if places:
            last = places[-1]
            axes.annotate(f"ef {last.ef}", (last.recall, last.rate), fontsize=7, alpha=0.7)
    axes.set_yscale("log")
    for set_formatter in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        set_formatter(FuncFormatter(lambda rate, _: f"{rate:,.0f}"))
    axes.set_xlabel("recall@10")
    axes.set_ylabel("searches a second, 8 connections")
    axes.set_title(f"{data}: recall against speed")
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend()
    figure.savefig(path)
