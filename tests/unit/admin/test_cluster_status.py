"""The one page: what is wrong is named, and `writable` means that a write would succeed."""

from __future__ import annotations

import json
from typing import Any

import attrs
import pytest
import trio

from objstore.admin.status import _drive_problems, _metadata_problems, _node_problems
from objstore.chunks.driver import DriveSpace
from objstore.units import GiB
from tests.unit.objects.capabilities import make_bucket

from .nodes import world


def node(**more: Any) -> dict[str, Any]:
    return {"id": "n1", "state": "alive", "layout_state": "active", "drives": []} | more


def drive(**more: Any) -> dict[str, Any]:
    fields = {"path": "/d", "total": 100 * GiB, "free": 50 * GiB, "state": "ok"}
    return fields | {"reason": None, "damaged_segments": 0} | more


def test_a_node_that_is_well_is_no_problem() -> None:
    assert _node_problems([node(drives=[drive()], clock_offset_ms=-400)], GiB) == []


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ({"state": "dead"}, "n1 is dead"),
        ({"state": "suspect"}, "n1 is suspect"),
        ({"layout_state": "draining"}, "on its way out"),
        ({"layout_state": "dead"}, "others vote in its place"),
        ({"damaged_groups": [3, 4]}, "mends the logs of shards [3, 4]"),
        ({"log_full": True}, "no room for its log"),
        ({"log_slow": True}, "takes seconds a sync"),
        ({"folder_full": True}, "takes no new metadata"),
        ({"clock_offset_ms": -3_600_000}, "-3600000 ms off"),
        ({"drives": [drive(reason="I/O error", state="fenced")]}, "/d: I/O error"),
        ({"drives": [drive(free=GiB)]}, "takes no new data"),
        ({"drives": [drive(damaged_segments=2)]}, "2 damaged segments"),
    ],
    ids=str,
)
def test_whatever_is_wrong_with_a_node_is_named(what: dict[str, Any], words: str) -> None:
    (problem,) = _node_problems([node(**what)], GiB)
    assert words in problem


def test_a_report_of_an_older_build_is_read_as_far_as_it_goes() -> None:
    old = drive()
    del old["damaged_segments"]
    assert list(_drive_problems("n", [old], GiB)) == []


def test_metadata_below_its_voters_is_named() -> None:
    assert _metadata_problems({"leaderless": 0, "shards_below": 0, "voters": 3}) == []
    (one, other) = _metadata_problems({"leaderless": 2, "shards_below": 5, "voters": 3})
    assert "2 metadata shards have no known leader" in one
    assert "fewer than 3 voters" in other


async def test_the_page_of_one_node(autojump_clock: object) -> None:
    async with world() as w:
        await make_bucket(w.doors[0].parts.store)
        status = await w.doors[0].call("GET", "status")
        assert json.loads(json.dumps(status)) == status
        assert status["writable"] is True
        assert status["below_promise"] == {"objects": 0, "bytes": 0}
        assert status["problems"] == ["one node: nothing is redundant"]
        (only,) = status["nodes"]
        assert only["id"] == w.doors[0].parts.identity.node
        assert (only["state"], only["leads"], only["is_self"]) == ("alive", 33, True)
        assert status["metadata"] == {
            "shards": 33,
            "voters": 1,
            "shards_below": 0,
            "leaderless": 0,
        }


async def test_three_nodes_of_which_one_dies_and_then_two(autojump_clock: object) -> None:
    """F25"""
    async with world() as w:
        await w.grow(3)
        door = w.doors[0]
        status = await door.call("GET", "status")
        assert (status["problems"], status["writable"]) == ([], True)
        w.stops[2].set()
        await w.ends[2].wait()
        status = await door.call("GET", "status")
        assert status["writable"] is True  # Two of three are a write quorum.
        assert any("is left" in problem for problem in status["problems"])
        w.stops[1].set()
        await w.ends[1].wait()
        await trio.sleep(10)
        status = await door.call("GET", "status")
        assert status["writable"] is False
        assert any("quorum" in problem for problem in status["problems"])


async def test_too_few_nodes_with_room_are_not_writable(autojump_clock: object) -> None:
    """F09: reads go on, so the node is ready; but a write would be refused."""
    async with world() as w:
        await w.grow(3)
        for door in w.doors[1:]:
            store = door.parts.chunk_store
            full = tuple(attrs.evolve(space, free=0) for space in store.space())
            door.parts.reporter.chunks = _Full(full)  # type: ignore[assignment]
        status = await w.doors[0].call("GET", "status")
        assert status["writable"] is False
        assert "1 nodes can take new data, replicate:3 needs 2" in status["problems"]


@attrs.frozen
class _Full:
    drives: tuple[DriveSpace, ...]

    def space(self) -> tuple[DriveSpace, ...]:
        return self.drives
