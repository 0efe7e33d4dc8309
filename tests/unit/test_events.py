"""Every log event has a line in docs/reference/events, and every line an event."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "objstore"
PAGES = ROOT / "docs/reference/events"
LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}
EVENT = re.compile(r"[a-z0-9]+\.[a-z0-9_]+")
_SPOKEN = {"exception": "error"}


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """(level, first argument) of what looks like a call of a logger."""
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in LEVELS
            and node.args
        ):
            yield node.func.attr, node.args[0]


def emitted() -> dict[str, set[str]]:
    """Event -> its levels, of the whole package."""
    found: dict[str, set[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text())
        for level, argument in calls(tree):
            if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                found.setdefault(argument.value, set()).add(_SPOKEN.get(level, level))
        # An event that a variable carries (`level(event, ...)`): a constant of that form
        # whose first word is the package itself.
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Constant)
                and isinstance(node.value, str)
                and EVENT.fullmatch(node.value)
                and node.value in _CARRIED.get(room, ())
            ):
                found.setdefault(node.value, set())
    return found


# Events that are chosen from a table, or are a FrequentLog's: their levels cannot be read
# off the call.
_CARRIED = {
    "gossip": {
        "gossip.node_joined",
        "gossip.node_suspected",
        "gossip.node_dead",
        "gossip.node_left",
        "gossip.node_recovered",
    },
    "s3": {"s3.request_done"},
}


def documented() -> dict[str, str]:
    """Event -> the level that its line says."""
    found: dict[str, str] = {}
    for page in sorted(PAGES.glob("*.md")):
        for line in page.read_text().splitlines():
            match = re.match(r"- `([^`]+)` \((\w+)[^)]*\): .+", line)
            assert match or not line.startswith("- "), f"{page.name}: {line}"
            if match:
                event, level = match.groups()
                assert event not in found, f"{event} has two lines"
                assert event.split(".")[0] == page.stem, f"{event} is in {page.name}"
                found[event] = level
    return found


EMITTED, DOCUMENTED = emitted(), documented()


@pytest.mark.parametrize("event", sorted(EMITTED))
def test_an_event_is_named_by_the_rules_and_has_a_line(event: str) -> None:
    assert EVENT.fullmatch(event), "an event is package.thing_happened, without keys in it"
    assert event in DOCUMENTED, (
        f"docs/reference/events/{event.split('.', maxsplit=1)[0]}.md"
    )


@pytest.mark.parametrize("event", sorted(DOCUMENTED))
def test_a_line_is_of_an_event_and_says_its_level(event: str) -> None:
    assert event in EMITTED, "no code says this any more"
    levels = EMITTED[event]
    assert not levels or DOCUMENTED[event] in levels


def test_events_carry_keys_and_no_sentence_made_of_them() -> None:
    for path in sorted(PACKAGE.rglob("*.py")):
        for _, argument in calls(ast.parse(path.read_text())):
            assert not isinstance(argument, ast.JoinedStr), f"{path}: an f-string"
