"""Search workers: forked processes that answer quick searches from a copy of this node's indexes.

shared_state   what all of them see at once: whether the copy is still the truth
channel        how connections go to a worker and come back
requests       whole requests out of a connection's bytes
worker         what a worker does, until its copy is old
pool           the node's side: forks, lends, takes back
"""
