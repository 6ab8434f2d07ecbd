"""An outbox in a user's own Postgres: the changes of a table, waiting to become points.

`install` makes it there, `session` is the consumer's connection, `status` tells how far it is.
"""
