"""Raft: pysyncobj's core, hardened from outside.

pysyncobj 0.3.17 decides elections, terms and commitment; everything around that decision is
ours, because the stock surroundings lose acknowledged writes and run bytes from the network.

    pinned.py     which pysyncobj this is, and the clock it reads
    messages.py   what replicas say to each other; types checked on arrival           (pure)
    receive.py    which of it may reach the core, and in what form                    (pure)
    election.py   pre-vote, stickiness, when to stand                                 (pure)
    reads.py      ReadIndex: proof of leadership for a strong read                    (pure)
    progress.py   how much is under way to a follower                                 (pure)
    log.py        one group's entries in memory, and what of them is durable          (pure)
    wal.py        one write-ahead log per node: batches, segments, recovery
    core.py       the overrides of pysyncobj's SyncObj, each naming its defect
    group.py      one replica: what it is asked, what it does with messages
    snapshot.py   a lagging replica is refilled piece by piece                        (pure)
    host.py       all groups of a node as one step function: persist, send, apply     (pure)
    frames.py     handshake and authenticated frames of a connection                  (pure)
    tcp.py        the one peer port of a node
    driver.py     threads and timers around the host

The order persist, send, apply is the durability argument: nothing that depends on a record
leaves the node, as a message or as an answer, before that record is on disk.
"""
