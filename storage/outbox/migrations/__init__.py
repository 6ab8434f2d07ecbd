"""The outbox's schema, as numbered scripts."""
