"""The outside world: clock, network, disk, key-value store, entropy, threads."""
