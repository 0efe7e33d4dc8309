"""Chance from one seed.  A token of a simulation is guessable by whoever has the seed."""

from __future__ import annotations

from random import Random


class SimulatedEntropy:
    def __init__(self, seed: str) -> None:
        # Two, so that how often a part draws from one does not shift the other.
        self._random = Random(f"{seed}/random")
        self._tokens = Random(f"{seed}/tokens")

    @property
    def random(self) -> Random:
        return self._random

    def token(self, size: int) -> bytes:
        return self._tokens.randbytes(size)
