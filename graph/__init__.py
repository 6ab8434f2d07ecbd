"""What caused what: the hypergraph. It knows ids and properties only."""
