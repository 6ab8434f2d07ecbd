"""Remembering: records, vectors, filters. It knows bytes and rows only."""
