"""One node: its identity on disk, and the composition of all parts."""
