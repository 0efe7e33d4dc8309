"""One known bug, and a scenario in which it does harm."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import attrs

from objstore.testing.cluster.evidence import Violation
from objstore.testing.cluster.program import Program

Scenario = Callable[[int, Program], Iterable[Violation]]  # Of a seed.


@attrs.frozen(kw_only=True)
class Mutant:
    """A bug."""

    name: str
    breaks: str  # What the code does no more, in a sentence.
    checker: str  # The one that must find it.
    scenario: Scenario
    plant: Callable[[], AbstractContextManager[object]]
    seeds_max: int


@contextmanager
def patched(target: Any, **attributes: object) -> Iterator[None]:
    """Replace attributes of a class or module for a while."""
    with ExitStack() as stack:
        for name, value in attributes.items():
            stack.callback(setattr, target, name, getattr(target, name))
            setattr(target, name, value)
        yield
