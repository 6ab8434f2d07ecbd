"""What was measured of a graph, in a small file among those of the graph's save.

It comes and goes with the save, and is replaced by itself after each round: a graph that nobody
changes need not be written again for it. The graph may have changed since its save, by less than
what makes a new save worth while; a width means as much for the one as for the other.

The manifest does not list it, so saves without it are whole, and versions that do not know it load
those that have it. Where it is damaged, impossible or about another aim it counts as not there: the
graph is as good without it, and building a graph takes minutes, measuring it seconds.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final

import msgspec

from storage import signed_file
from storage.beam_width import NEIGHBOURS, RECALL_MIN, Measured

log = logging.getLogger(__name__)

FORMAT: Final = 1
NAME: Final = "beam.json"


class _Contents(msgspec.Struct, forbid_unknown_fields=True):
    format: int
    neighbours: int
    recall_min: float
    measured: Measured


def write(measured: Measured, save_directory: Path) -> None:
    """Write it into the directory of a save, over what was there; raises OSError."""
    contents = _Contents(FORMAT, NEIGHBOURS, RECALL_MIN, measured)
    signed_file.write(save_directory / NAME, msgspec.json.encode(contents))


def read(save_directory: Path) -> Measured | None:
    """Return what was measured of a save's graph; None if that is not known."""
    try:
        return _read(save_directory / NAME)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, msgspec.MsgspecError) as error:
        log.warning("%s: the beam width is measured anew: %s", save_directory, error)
        return None


def _read(path: Path) -> Measured:
    contents = msgspec.json.decode(signed_file.read(path), type=_Contents)
    aim = (contents.format, contents.neighbours, contents.recall_min)
    if aim != (FORMAT, NEIGHBOURS, RECALL_MIN):
        raise ValueError("what was measured had another aim")
    contents.measured.check()
    return contents.measured
