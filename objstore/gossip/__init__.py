"""SWIM membership with Lifeguard: who is alive, how full, how healthy."""
