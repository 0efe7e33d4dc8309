"""Where data lives: layout, partitions, epochs. Pure."""
