"""What the store does, one file per operation."""
