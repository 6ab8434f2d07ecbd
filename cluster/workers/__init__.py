"""Search workers: forked processes that answer quick searches from a copy of this node's indexes.

Of the node: `pool` forks them, lends connections and takes them back, when `staffing` says so and
in the moment that `forking` makes; `errands` does what they ask; `surface` is what they need of it.
Between the two: `shared_state` tells whether a copy is still the truth, `change_ring` what was
written, `channel` carries connections. Of a worker: `worker` serves the connections in `lent`, with
`requests` out of their bytes, the searches of a `turn`, and its `copied` indexes.
"""
