"""A checker that does not complain of what it is there for is worth nothing."""

from __future__ import annotations

import math
from types import SimpleNamespace

import attrs
import pytest

from objstore.ids import NodeId
from objstore.ring.layout import Member
from objstore.ring.layout import found as found_layout
from objstore.testing.checks import ends, lists, loss, registers, resurrection
from objstore.testing.cluster.bodies import Body, number_in
from objstore.testing.cluster.evidence import End, Evidence, Listed
from objstore.testing.history import History


@attrs.define
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@attrs.define(eq=False)
class Told:
    """A history by hand: operations with their times, of one client."""

    clock: Clock = attrs.field(factory=Clock)
    evidence: Evidence = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.evidence = Evidence(history=History(self.clock))

    def do(self, kind, key, called, returned, value=None):
        history = self.evidence.history
        self.clock.now = called
        match kind:
            case "put":
                value = self.evidence.new_body(key, 100).number
                call = history.put("c", key, value)
            case "delete":
                call = history.delete("c", key)
            case "get":
                call = history.get("c", key)
        if returned == math.inf:
            call.unknown()
        else:
            self.clock.now = returned
            call.returned(value)
        return value

    def list(self, called, returned, *numbers):
        bodies = [self.evidence.bodies[number] for number in numbers]
        keys, etags = tuple(b.key for b in bodies), tuple(b.etag for b in bodies)
        self.evidence.lists.append(Listed("c", "b", called, returned, keys, etags))


@pytest.fixture
def told() -> Told:
    return Told()


def found(check) -> list[str]:
    return [violation.what for violation in check]


def test_a_body_names_itself_and_follows_from_its_name():
    body = Body("b/k", 7, 3000)
    assert len(body.data) == 3000
    assert number_in(body.data) == 7
    assert body.data != Body("b/k", 8, 3000).data
    assert number_in(b"<html>") is None
    assert number_in(b"objstore-sim b/k x 1\n") is None


def test_registers_finds_a_stale_read(told):
    first = told.do("put", "b/k", 0, 1)
    second = told.do("put", "b/k", 2, 3)
    told.do("get", "b/k", 4, 5, second)
    assert not found(registers.check(told.evidence))
    told.do("get", "b/k", 6, 7, first)
    assert found(registers.check(told.evidence))


def test_loss_finds_what_is_missing_in_the_end(told):
    value = told.do("put", "b/k", 0, 1)
    told.do("get", "b/k", 11, 12, value)
    assert not found(loss.check(told.evidence, healed=10))
    told.do("get", "b/k", 13, 14, None)
    assert len(found(loss.check(told.evidence, healed=10))) == 1


@pytest.mark.parametrize("seen", [None, 1, 2])
def test_loss_allows_all_that_an_unknown_write_may_have_done(told, seen):
    told.do("put", "b/k", 0, 1)
    told.do("put", "b/k", 2, math.inf)
    told.do("delete", "b/k", 2, math.inf)
    told.do("get", "b/k", 11, 12, seen)
    assert not found(loss.check(told.evidence, healed=10))


def test_loss_does_not_look_at_reads_beside_writes(told):
    told.do("put", "b/k", 11, 15)
    told.do("get", "b/k", 12, 13, None)
    assert not found(loss.check(told.evidence, healed=10))


def test_resurrection_finds_what_was_deleted(told):
    value = told.do("put", "b/k", 0, 1)
    told.do("delete", "b/k", 2, 3)
    told.do("get", "b/k", 2.5, 3.5, value)  # Beside the delete: it may.
    assert not found(resurrection.check(told.evidence))
    told.do("get", "b/k", 4, 5, value)
    assert len(found(resurrection.check(told.evidence))) == 1


def test_lists_finds_a_missing_key(told):
    first = told.do("put", "b/1", 0, 1)
    second = told.do("put", "b/2", 0, 1)
    told.list(2, 3, first, second)
    assert not found(lists.check(told.evidence))
    told.list(4, 5, first)
    assert found(lists.check(told.evidence)) == [
        "c 4.000..5.000 b: b/2 was acknowledged, and is not listed"
    ]


def test_lists_finds_a_deleted_key_and_one_of_the_future(told):
    gone = told.do("put", "b/1", 0, 1)
    told.do("delete", "b/1", 2, 3)
    told.list(2.5, 6, gone)
    assert not found(lists.check(told.evidence))
    told.list(4, 6, gone)
    later = told.do("put", "b/2", 7, 8)
    told.list(5, 6, later)
    assert len(found(lists.check(told.evidence))) == 2


def test_lists_leaves_open_what_is_under_way(told):
    told.do("put", "b/1", 0, 1)
    told.do("delete", "b/1", 2, math.inf)
    told.do("put", "b/2", 0, math.inf)
    told.list(4, 5)
    told.list(4, 5, 1, 2)
    assert not found(lists.check(told.evidence))


def test_lists_finds_disorder_and_strange_etags(told):
    first, second = told.do("put", "b/1", 0, 1), told.do("put", "b/2", 0, 1)
    told.list(2, 3, second, first)
    told.list(2, 3, first, first, second)
    assert len(found(lists.check(told.evidence))) == 2
    told.evidence.lists[:] = [Listed("c", "b", 2, 3, ("b/1", "b/2"), ("x", "y"))]
    assert len(found(lists.check(told.evidence))) == 2


def test_ends_excuses_only_what_a_disk_explains():
    evidence = Evidence(history=History(Clock()))
    evidence.ends.append(End("n1", 1.0, "OSError", is_bug=False, had_fault=True))
    assert not found(ends.check(evidence))
    evidence.ends.append(End("n1", 1.0, "OSError", is_bug=False, had_fault=False))
    evidence.ends.append(End("n1", 1.0, "KeyError", is_bug=True, had_fault=True))
    assert len(found(ends.check(evidence))) == 2


async def test_ends_finds_who_only_says_that_it_left(told):
    one, two, three = (Member(NodeId(letter * 16), 100) for letter in "abc")
    nodes = {"n1": SimpleNamespace(view=SimpleNamespace(layout=found_layout([one, two])))}
    ends.check_left(told.evidence, {"n3": three.node}, nodes)
    assert told.evidence.found == []
    ends.check_left(told.evidence, {"n2": two.node}, nodes)
    assert [violation.checker for violation in told.evidence.found] == ["ends"]
