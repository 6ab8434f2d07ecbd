"""What must hold after every event, watched from outside."""

from __future__ import annotations

from dataclasses import dataclass, field

from cluster.raft.messages import Entry
from tests.simulation.nodes import Net
from tests.simulation.register import Register


class Violation(AssertionError):
    """The cluster did what it must never do."""


@dataclass
class Checkers:
    """Safety of Raft (paper, figure 3) and of acknowledgements."""

    net: Net
    leaders: dict[tuple[int, int], str] = field(default_factory=dict)
    applied: dict[tuple[int, int], Entry] = field(default_factory=dict)
    digests: dict[tuple[int, int], str] = field(default_factory=dict)
    proposed: dict[tuple[int, int, int], str] = field(default_factory=dict)
    acked: dict[tuple[int, int], bytes] = field(default_factory=dict)
    events: int = 0

    def watch(self) -> None:
        self.net.on_applied = self.on_applied
        self.net.on_state = self.on_state

    def on_applied(self, node: str, group: int, entry: Entry) -> None:
        """State machine safety; and if this node proposed the entry, its client hears of it."""
        self.events += 1
        command, index, term = entry
        known = self.applied.setdefault((group, index), entry)
        if known != entry:
            raise Violation(f"group {group} index {index}: {known} and {entry} were applied")
        if self.proposed.get((group, index, term)) == node:
            self.acked[(group, index)] = command

    def on_state(self, node: str, group: int, machine: Register) -> None:
        """Equal index, equal state."""
        known = self.digests.setdefault((group, machine.index), machine.digest())
        if known != machine.digest():
            raise Violation(f"{node}: group {group} differs at index {machine.index}")

    def after_step(self) -> None:
        """Election safety, and no replica stopped itself."""
        for name, node in self.net.nodes.items():
            if not node.up:
                continue
            for number, raft in node.host.groups.items():
                if raft.failed:
                    raise Violation(f"{name}: group {number} stopped: {raft.failed}")
                if raft.is_leader:
                    first = self.leaders.setdefault((number, raft.term), name)
                    if first != name:
                        raise Violation(f"two leaders in term {raft.term}: {first} and {name}")

    def at_rest(self) -> None:
        """After healing: everybody agrees and every acknowledged write is there."""
        for (group, index), command in self.acked.items():
            key, _, value = command[1:].decode().partition("=")
            for name, node in self.net.nodes.items():
                if node.machines[group].data.get(key) != value:
                    raise Violation(f"{name} lost {key} of group {group}, acked at {index}")
        for group in self.net.nodes[self.net.names[0]].machines:
            positions = {n.machines[group].position() for n in self.net.nodes.values()}
            if len(positions) != 1:
                raise Violation(f"group {group} did not converge: {sorted(positions)}")
