"""Patterns that live in Postgres: written, and searched by pgvector, in the table stored_patterns.

Nothing here knows of HTTP. Failures are those of `storage.checkpoint.errors`.
"""
