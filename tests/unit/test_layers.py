"""Imports go downwards, and only drivers touch the world: house rules as tests."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "objstore"

# From the ground up; neighbours on one line do not import each other.
LAYERS = [
    {"errors", "ids", "units", "limits", "packing", "frozen", "buffer", "sums"},
    {"config", "log", "metrics"},
    {"host"},
    {"ring", "ec"},
    {"rpc"},
    {"raft", "gossip", "http"},
    {"meta", "chunks"},
    {"objects"},
    {"repair"},
    {"s3", "admin"},
    {"node", "testing"},
    {"cli"},
]
FOUNDATION = LAYERS[0] | LAYERS[1]  # May import each other, acyclically.
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}

WORLD = {"os", "socket", "threading", "secrets", "rocksdict", "ssl", "select"}
WORLD_ROOMS = {"host", "cli", "log"}
SHELL = {"trio", "time", "structlog"}
SHELL_ROOMS = {"host", "objects", "repair", "admin", "node", "testing", "cli", "log"}
SHELL_MODULES = {
    "driver", "client", "server", "store", "worker", "connection", "app",
}  # fmt: skip
# Trio shells whose names say more than the list above does.
SHELL_EXCEPTIONS: set[str] = {
    "meta/reconcile.py",
    "meta/view.py",
    "raft/answers.py",
    "s3/admission.py",
    "s3/slow_answer.py",
}


def modules() -> list[Path]:
    return sorted(p for p in PACKAGE.rglob("*.py") if p.name != "__main__.py")


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_downwards(path: Path) -> None:
    room = room_of(path)
    if room == "__init__":
        return
    for name in imports(path):
        parts = name.split(".")
        if parts[0] != "objstore" or len(parts) == 1:
            continue
        other = parts[1]
        below = other == room or LEVEL[other] < LEVEL[room]
        both_foundation = {room, other} <= FOUNDATION
        assert below or both_foundation, f"{path} ({room}) imports {name}"


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_only_the_host_touches_the_world(path: Path) -> None:
    if room_of(path) in WORLD_ROOMS:
        return
    for name in imports(path):
        assert name.split(".")[0] not in WORLD, f"{path} imports {name}"


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_cores_are_free_of_io(path: Path) -> None:
    relative = str(path.relative_to(PACKAGE))
    if (
        room_of(path) in SHELL_ROOMS
        or path.stem in SHELL_MODULES
        or relative in SHELL_EXCEPTIONS
    ):
        return
    for name in imports(path):
        assert name.split(".")[0] not in SHELL, f"{path} imports {name}"
