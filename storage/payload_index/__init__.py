"""Payload indexes: what filters ask of payloads, kept in memory by slot."""
