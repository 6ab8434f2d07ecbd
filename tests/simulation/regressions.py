"""Seeds that found something once; they are run before all others.

A seed means a run of the simulator as it stands: when the simulator changes, each is looked for
anew, with the repair taken away.
"""

SEEDS: dict[str, tuple[int, ...]] = {
    "groups": (),
    "nodes": (
        3,  # a batch whose sync failed was believed after the restart, yet was never on disk
        62,  # what only the read barrier prevents: a deposed leader answers a strong read
        142,  # a flipped bit in a frame's length left the connection up, but deaf
        1056,  # a query whose answer was lost met what it had made itself, and was refused
        3113,  # a graph that was made and dropped in one batch stayed in memory
    ),
}
