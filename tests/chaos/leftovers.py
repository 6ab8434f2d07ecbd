"""What a run that was killed with -9 left of the system: removed by the next run.

The names that a run gives to kernel objects begin with `rc` and its process id: so what belongs
to nobody can be told. Mounts and loop devices end by themselves with the run.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from pathlib import Path

from tests.chaos.commands import CommandError, system


def run_name() -> str:
    """Return this run's prefix of names."""
    return f"rc{os.getpid()}"


def make_folder() -> Path:
    """Make this run's folder."""
    return Path(tempfile.mkdtemp(prefix=f"recollect-chaos-{os.getpid()}-"))


async def remove_leftovers() -> None:
    """Remove the network namespaces of runs whose process is gone."""
    for line in (await system("ip", "netns", "list")).splitlines():
        found = re.match(r"rc(\d+)-\S+", line)
        if found and not _lives(found[1]):
            with contextlib.suppress(CommandError):
                await system("ip", "netns", "del", found[0])


def _lives(pid: str) -> bool:
    return Path(f"/proc/{pid}").exists()
