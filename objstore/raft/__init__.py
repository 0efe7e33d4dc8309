"""Consensus: many Raft groups on one write-ahead log. Knows nothing of objects."""
