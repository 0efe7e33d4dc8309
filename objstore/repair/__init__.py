"""Background work that mends and frees."""
