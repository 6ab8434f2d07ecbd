"""The commands of `recollect`, one module each. They speak only HTTP to a cluster."""
