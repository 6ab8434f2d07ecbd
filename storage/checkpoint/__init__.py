"""Checkpoints in Postgres: shards' rows by version, what they proved, and the way back.

Nothing here knows of nodes or of the cluster's log: a shard is a state file, a checkpoint a number.
"""
