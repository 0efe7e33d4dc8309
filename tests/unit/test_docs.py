"""The pages for operators: every command, key, file and link in them exists."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from objstore import config
from objstore.cli.main import main

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [DOCS / "quickstart.md", DOCS / "operations.md"]
_EVENTS = "".join(p.read_text() for p in (DOCS / "reference/events").glob("*.md"))
each_page = pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)

_COMMAND = re.compile(
    r"(?:^|[ `/])objstore ((?:serve|dev|status|node|bucket|key|check)[^`\n]*)"
)


def commands(text: str) -> list[str]:
    """What follows `objstore` wherever it is typed."""
    found = []
    for line in text.splitlines():
        is_code = line.startswith(("    ", "$ objstore ", "objstore "))
        for piece in [line] if is_code else re.findall(r"`[^`]+`", line):
            match = _COMMAND.search(piece)
            if match:
                found.append(match[1].split("#")[0].strip().rstrip("`"))
    return found


def check(words: list[str]) -> None:
    """Follow the words down the commands, and look every flag up."""
    command: click.Command = main
    while isinstance(command, click.Group):
        name = words.pop(0)
        found = command.get_command(click.Context(command), name)
        assert found is not None, f"no command {name}"
        command = found
    known = {flag for parameter in command.params for flag in parameter.opts}
    for word in words:
        if word.startswith("--"):
            assert word in known, f"{command.name} has no {word}"


@pytest.mark.parametrize("path", [*PAGES, ROOT / "README.md"], ids=lambda path: path.name)
def test_every_command_and_flag_is_there(path: Path) -> None:
    found = commands(path.read_text())
    assert len(found) >= 4
    for line in found:
        check(shlex.split(line))


@each_page
def test_every_key_that_is_named_exists(path: Path) -> None:
    sections = {key.partition(".")[0] for key in config._keys()}
    named = re.findall(r"`([a-z]+\.[a-z_0-9]+)", path.read_text())
    files = ("node.toml", "node.json")
    events = set(re.findall(r"`([a-z.]+_[a-z_]+)`", _EVENTS))
    keys = [k for k in named if k.partition(".")[0] in sections and k not in files]
    for key in set(keys) - events:
        assert key in config._keys(), key


def test_every_target_of_make_that_a_page_names_is_there() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    pages = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "ARCHITECTURE.md")]
    named = {
        name
        for page in [*pages, *PAGES]
        for name in re.findall(
            r"(?:`|^    |\$ )make ([a-z-]+)", page.read_text(), re.MULTILINE
        )
    }
    assert {"run", "test"} <= named <= targets


def test_every_variable_that_is_named_exists() -> None:
    known = {f"OBJSTORE_{key.replace('.', '_').upper()}" for key in config._keys()}
    known |= {"OBJSTORE_CONFIG", "OBJSTORE_ADMIN_TOKEN"}
    for path in PAGES:
        assert set(re.findall(r"OBJSTORE_[A-Z_]+", path.read_text())) <= known


@pytest.mark.parametrize(
    "path",
    [*PAGES, ROOT / "README.md", *sorted((DOCS / "internals").glob("*.md"))],
    ids=str,
)
def test_every_link_leads_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
        if not target.startswith(("http:", "https:")):
            assert (path.parent / target).exists(), target


def test_headings_in_quotes_are_headings() -> None:
    text = (DOCS / "operations.md").read_text()
    headings = set(re.findall(r"^## (.+)$", text, flags=re.MULTILINE))
    for title in re.findall(r'"([A-Z][a-z]+(?: [a-z]+)+)"', text):
        assert title in headings, title


def test_problems_in_the_table_are_those_of_the_status() -> None:
    """The words that the page tells people to look for are words that the code says."""
    source = "".join(
        re.sub(r'"\s*\n\s*f?"', "", path.read_text())
        for path in [
            ROOT / "objstore/admin/status.py",
            ROOT / "objstore/cli/status.py",
            ROOT / "objstore/node/identity.py",
            ROOT / "objstore/node/parts.py",
            ROOT / "objstore/chunks/store.py",
            ROOT / "objstore/cli/serve.py",
            ROOT / "objstore/raft/wal.py",
            ROOT / "objstore/host/rocks_kv.py",
        ]
    )
    text = (DOCS / "operations.md").read_text()
    told = re.findall(r"^\| `(?:problem )?([^`]+)` \|", text, flags=re.MULTILINE)
    assert len(told) > 15
    for words in told:
        for piece in re.split(r"\.\.\.|\b[XN]\b|\d|^(?:writable|data|metadata) ", words):
            wanted = piece.strip()
            if len(wanted) > 6 and not wanted.startswith("is "):  # is dead, is suspect.
                assert wanted in source, wanted


def test_every_test_that_a_page_names_is_there() -> None:
    tests = [path for path in (ROOT / "tests").rglob("*.py") if path.name != "test_docs.py"]
    known = {path.stem for path in tests}
    for path in tests:
        known |= set(re.findall(r"def (test_\w+)", path.read_text()))
    named = {
        name
        for page in DOCS.rglob("*.md")
        for name in re.findall(r"\b(test_\w+)\b", page.read_text())
    }
    assert len(named) > 40
    assert named - known == set()
