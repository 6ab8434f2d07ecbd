"""What this process may use, and how much memory it does use, by its control group (Linux).

A container's memory limit is the limit of its control group; beyond it the kernel kills. Used is
what the kernel cannot take back at will: all that is charged, without the cache of files.

Version 1 names the files `memory.limit_in_bytes` and so on under `memory/`, version 2 `memory.max`.
Where /proc tells a path that is not there, this process sees its own group as the root, as it does
inside a container. The limits of the groups above hold too; version 1 sums them up by itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path("/sys/fs/cgroup")
MEMBERSHIP: Final = Path("/proc/self/cgroup")
NO_LIMIT_BYTES: Final = 1 << 60
"""Version 1 writes "no limit" as the largest whole number of pages."""


class MemoryReading(NamedTuple):
    """Bytes in use, and bytes from which on the process is killed."""

    used_bytes: int
    ceiling_bytes: int


class ControlGroup:
    """Reads the group's files at each call. Blocks, for some microseconds."""

    def __init__(self, root: Path = ROOT, membership: Path = MEMBERSHIP) -> None:
        self._root = root
        self._membership = membership

    def __call__(self) -> MemoryReading | None:
        """Return what is used of what; None: there is no limit, or no control group."""
        try:
            paths = self._paths()
            if "memory" in paths:
                return _version_1(self._root / "memory", paths["memory"])
            return _version_2(self._root, paths[""]) if "" in paths else None
        except (OSError, ValueError, KeyError):
            return None

    def processors(self) -> float | None:
        """Return how many processors the group may use at a time; None: as many as there are.

        Its own limit alone is looked at, and that of version 2: for a guess it is enough.
        """
        try:
            group = _place(self._root, self._paths()[""], "cpu.max")
            quota, period = (group / "cpu.max").read_text().split()
            return None if quota == "max" else int(quota) / int(period)
        except (OSError, ValueError, KeyError, ZeroDivisionError):
            return None

    def _paths(self) -> dict[str, str]:
        """Return this process' path by controller; that of version 2 has no name."""
        found = {}
        for line in self._membership.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            for controller in controllers.split(","):
                found[controller] = path.strip("/")
        return found


def _version_1(root: Path, path: str) -> MemoryReading | None:
    group = _place(root, path, "memory.limit_in_bytes")
    stat = _stat(group)
    ceiling = stat["hierarchical_memory_limit"]
    used = _number(group / "memory.usage_in_bytes")
    files = stat["total_active_file"] + stat["total_inactive_file"]
    return None if ceiling >= NO_LIMIT_BYTES else MemoryReading(max(0, used - files), ceiling)


def _version_2(root: Path, path: str) -> MemoryReading | None:
    group = _place(root, path, "memory.current")
    limits = {}
    for above in (group, *group.parents):
        limit = above / "memory.max"
        if limit.exists() and limit.read_text().strip() != "max":
            limits[_number(limit)] = above
        if above == root:
            break
    if not limits:
        return None
    ceiling = min(limits)
    stat = _stat(limits[ceiling])
    given_back = stat["active_file"] + stat["inactive_file"] + stat.get("slab_reclaimable", 0)
    used = _number(limits[ceiling] / "memory.current")
    return MemoryReading(max(0, used - given_back), ceiling)


def _place(root: Path, path: str, file: str) -> Path:
    named = root / path
    return named if ".." not in path and (named / file).exists() else root


def _stat(group: Path) -> dict[str, int]:
    lines = (group / "memory.stat").read_text().splitlines()
    return {name: int(value) for name, value in map(str.split, lines)}


def _number(path: Path) -> int:
    return int(path.read_text())
