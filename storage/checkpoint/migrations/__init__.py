"""The schema in Postgres, as numbered SQL scripts."""
