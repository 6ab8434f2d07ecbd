"""The HTTP API: bounded strict reading, one route table, one envelope, one edge."""
