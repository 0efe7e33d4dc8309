"""Chance: a Random to spread things with, and bytes that nobody can guess."""

from __future__ import annotations

import os
import secrets
from random import Random
from typing import Protocol


class Entropy(Protocol):
    """Where randomness comes from; in simulation, one seed."""

    @property
    def random(self) -> Random:
        """For jitter and choice; never for secrets."""
        ...

    def token(self, size: int) -> bytes:
        """`size` unguessable bytes: ids, keys, nonces."""
        ...


class SystemEntropy:
    """The operating system's randomness."""

    def __init__(self) -> None:
        self._random = Random(secrets.randbits(128))

    @property
    def random(self) -> Random:
        return self._random

    def token(self, size: int) -> bytes:
        return os.urandom(size)  # As `secrets.token_bytes`, without what is around it.
