"""Nodes come and go: whole nodes on virtual time, and requests that nobody should send."""

from __future__ import annotations

from functools import partial
from typing import Any

import attrs
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from objstore.admin.membership import Membership, _draining, _Newcomer, _without
from objstore.errors import ConfigError, Conflict, InvalidRequest, Unavailable
from objstore.ids import NodeId, Slot
from objstore.meta import payloads, schema
from objstore.meta.commands import RaiseFloor
from objstore.node import place
from objstore.node.identity import IdentityState
from objstore.ring.layout import Member, found, with_member_state
from objstore.rpc.call import Call
from tests.unit.chunks.stores import put as put_fragment
from tests.unit.objects.capabilities import make_bucket

from .nodes import Door, decoded, world

REQUEST = {
    "token": "obj1." + "0" * 64 + "." + "1" * 16 + "." + "2" * 32,
    "node": "a" * 16,
    "weight": 5,
    "zone": "z",
    "rack": "r",
    "host": "h",
    "cluster_address": "10.9.9.9:7000",
    "s3_address": "http://10.9.9.9:9000",
}


def node_of(door: Door) -> NodeId:
    return door.parts.identity.node


# ---- requests to join -----------------------------------------------------------------


def test_a_request_in_order_is_read() -> None:
    member = _Newcomer.parse(REQUEST, now_ms=7).member
    assert (member.node, member.weight, member.joined) == ("a" * 16, 5, 7)
    named = REQUEST | {"cluster_address": "node4.example.com:7000"}
    assert _Newcomer.parse(named, now_ms=0).member.cluster_address.startswith("node4")
    assert _Newcomer.parse(REQUEST | {"cluster_address": "[fe80::1]:7000"}, now_ms=0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"node": "A" * 16},
        {"node": "a" * 15},
        {"node": 5},
        {"weight": True},
        {"weight": -1},
        {"weight": 1 << 41},
        {"weight": "5"},
        {"zone": ""},
        {"zone": "z" * 65},
        {"zone": "ü" * 33},
        {"rack": "a\nb"},
        {"host": "\x1b[31m"},
        {"cluster_address": "10.9.9.9"},
        {"cluster_address": "10.9.9.9:70000"},
        {"cluster_address": "0.0.0.0:7000"},
        {"cluster_address": "[::]:7000"},
        {"cluster_address": "10.9.9.9:0"},
        {"s3_address": "10.9.9.9:9000"},
        {"s3_address": "ftp://10.9.9.9:9000"},
        {"s3_address": "http://10.9.9.9:x"},
        {"token": "nonsense"},
        {"token": "t" * 257},
    ],
    ids=str,
)
def test_a_request_with_one_thing_wrong_is_refused(wrong: dict[str, Any]) -> None:
    """F32: what the layout keeps, every node would have to live with."""
    with pytest.raises(InvalidRequest):
        _Newcomer.parse(REQUEST | wrong, now_ms=0)


junk = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=20)
    | st.binary(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(junk | st.dictionaries(st.sampled_from(sorted(REQUEST)), junk))
def test_whatever_a_stranger_says_is_an_error_of_his_and_no_bug(value: Any) -> None:
    with pytest.raises(InvalidRequest):
        _Newcomer.parse(value, now_ms=0)


async def ask(door: Door, **changes: Any) -> Any:
    call = Call(None, REQUEST | changes, memoryview(b""), trio.current_time() + 10)
    return (await door.parts.membership.on_join(call)).value


async def test_who_comes_again_is_answered_anew_and_spends_nothing(
    autojump_clock: object,
) -> None:
    """F31: its first answer was lost."""
    async with world() as w:
        made = await w.doors[0].call("POST", "tokens", {"uses": 1})
        first = await ask(w.doors[0], token=made["token"])
        epoch = w.doors[0].parts.view.epoch
        second = await ask(w.doors[0], token=made["token"])
        assert w.doors[0].parts.view.epoch == epoch
        assert second["cluster"] == first["cluster"]
        assert second["private_key_pem"] != first["private_key_pem"]
        with pytest.raises(InvalidRequest):
            await ask(w.doors[0], token=made["token"], node="b" * 16)


async def test_wrong_spent_and_expired_tokens_let_nobody_in(autojump_clock: object) -> None:
    """F30"""
    async with world() as w:
        door = w.doors[0]
        made = await door.call("POST", "tokens", {"uses": 1, "expires_in_ms": 1000})
        wrong = made["token"][:-1] + ("0" if made["token"][-1] != "0" else "1")
        with pytest.raises(InvalidRequest):
            await ask(door, token=wrong)
        await trio.sleep(2)
        await make_bucket(door.parts.store)  # Cluster time goes on by commands.
        with pytest.raises(InvalidRequest):
            await ask(door, token=made["token"])
        assert len(door.parts.view.layout.members) == 1


async def test_an_address_that_is_somebodys_is_refused(autojump_clock: object) -> None:
    async with world() as w:
        door = w.doors[0]
        made = await door.call("POST", "tokens", {"uses": 5})
        own = door.parts.config.cluster.address
        for address in (own, "127.0.0.1:7000", "localhost:7000"):
            with pytest.raises(InvalidRequest):
                await ask(door, token=made["token"], cluster_address=address)
        assert len(door.parts.view.layout.members) == 1


async def test_a_joining_daemon_is_told_what_to_set(autojump_clock: object) -> None:
    with pytest.raises(BaseExceptionGroup) as caught:
        await join_from_loopback()
    assert caught.group_contains(ConfigError, match=r"cluster\.advertise")


async def join_from_loopback() -> None:
    async with world() as w:
        await w.join(**{"cluster.address": "127.0.0.1:7000"})


# ---- leaving --------------------------------------------------------------------------


async def test_an_empty_node_leaves_and_stops_and_others_go_on(
    autojump_clock: object,
) -> None:
    """F23"""
    async with world() as w:
        await w.grow(4)
        await make_bucket(w.doors[1].parts.store, "photos")
        leaver = w.doors[3]
        with capture_logs() as logs:
            answer = await w.doors[0].call("POST", f"nodes/{node_of(leaver)}/leave")
        assert answer == {"left": node_of(leaver), "was_told": True}
        await w.ends[3].wait()
        assert leaver.parts.folder.identity is not None
        assert leaver.parts.folder.identity.state is IdentityState.LEFT
        assert "admin.node_left" in [entry["event"] for entry in logs]
        members = w.doors[0].parts.view.layout.members
        assert node_of(leaver) not in {member.node for member in members}
        # Commits that were placed by a ring with that node in it are refused from now on.
        view = w.doors[0].parts.view
        record = view.bucket("photos")
        assert record is not None
        for door in w.doors[:3]:
            for slot in record.span:
                machine = door.parts.meta_store.machine(view.shard_of(slot))
                if machine.group in door.parts.raft.groups():
                    await until(lambda m=machine, s=slot: floor_of(m, s) >= 5)
        with trio.fail_after(30):
            await make_bucket(w.doors[2].parts.store, "more")


async def test_a_node_that_saw_by_itself_that_it_is_out_counts_as_told(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    tell = Membership._tell

    async def tell_late(self: Membership, node: NodeId) -> bool:
        await w.ends[3].wait()
        return await tell(self, node)

    monkeypatch.setattr(Membership, "_tell", tell_late)
    async with world() as w:
        await w.grow(4)
        leaver = node_of(w.doors[3])
        answer = await w.doors[0].call("POST", f"nodes/{leaver}/leave")
        assert answer == {"left": leaver, "was_told": True}


def floor_of(machine: Any, slot: Slot) -> int:
    """The epoch below which commits into the slot are refused."""
    row = machine.rows.get(schema.state_key(slot))
    return 0 if row is None else int(payloads.unpack(row)[0])


async def until(condition: Any) -> None:
    with trio.fail_after(30):
        while not condition():
            await trio.sleep(0.1)


async def test_who_must_not_leave_is_refused_and_nothing_changes(
    autojump_clock: object,
) -> None:
    async with world() as w:
        door = w.doors[0]

        async def refused(node: str, words: str) -> None:
            response = await door.send("POST", f"/-/admin/v1/nodes/{node}/leave")
            assert response.status in {404, 409}, response.body
            assert words in decoded(response)["message"]

        await refused(node_of(door), "only one")
        await refused("f" * 16, "no node")
        await w.grow(3)
        await refused(node_of(w.doors[2]), "1 voter")
        await w.grow(4)
        epoch = door.parts.view.epoch
        store = w.doors[3].parts.chunk_store
        fragment = await put_fragment(store, 1, b"x" * 100)
        await refused(node_of(w.doors[3]), "1 fragments")
        await store.delete([fragment])
        (drive,) = store.drives.values()
        drive.fence("test")
        await refused(node_of(w.doors[3]), "cannot be counted")
        assert door.parts.view.epoch == epoch
        for verb in ("drain", "remove"):
            path = f"/-/admin/v1/nodes/{node_of(door)}/{verb}"
            assert (await door.send("POST", path)).status == 501


async def test_a_leave_that_fails_midway_is_undone(autojump_clock: object) -> None:
    async with world() as w:
        await w.grow(4)
        door, leaver = w.doors[0], w.doors[3]
        await make_bucket(door.parts.store, "photos")
        real = door.parts.meta.propose

        class Proposer:
            async def propose(self, command: Any, **more: Any) -> Any:
                if isinstance(command, RaiseFloor):
                    raise Unavailable("no quorum")
                return await real(command, **more)

        door.parts.membership.meta = Proposer()  # type: ignore[assignment]
        path = f"/-/admin/v1/nodes/{node_of(leaver)}/leave"
        assert (await door.send("POST", path)).status == 503
        assert door.parts.view.layout.member(node_of(leaver)).state == "active"
        # What came in between while it was on its way out keeps it as well.
        door.parts.membership.meta = door.parts.meta
        store = leaver.parts.chunk_store

        async def sneak(node: NodeId) -> Any:
            report = await real_report(node)
            if door.parts.view.layout.member(node).state == "draining":
                await put_fragment(store, 2, b"late")
                report = await real_report(node)
            return report

        membership = door.parts.membership
        real_report = membership._report
        sneaky = with_reports(membership, sneak)
        with pytest.raises(Conflict, match="1 fragments"):
            await sneaky.leave(node_of(leaver))
        assert door.parts.view.layout.member(node_of(leaver)).state == "active"


async def test_a_leave_that_was_cut_off_is_asked_for_again(autojump_clock: object) -> None:
    """Found by simulation: whoever was asked first died, and left the node on its way out."""
    async with world() as w:
        await w.grow(4)
        door, leaver = w.doors[0], w.doors[3]
        node, store = node_of(leaver), leaver.parts.chunk_store
        path = f"/-/admin/v1/nodes/{node}/leave"
        cut_off = partial(_draining, node=node)
        await door.parts.membership.change_layout(cut_off)
        # What has come to it meanwhile lets it stay, a member as before.
        fragment = await put_fragment(store, 1, b"x" * 100)
        assert (await door.send("POST", path)).status == 409
        assert door.parts.view.layout.member(node).state == "active"
        await store.delete([fragment])
        await door.parts.membership.change_layout(cut_off)
        assert (await door.send("POST", path)).status == 200
        assert door.parts.view.layout.find(node) is None


async def test_a_node_whose_leave_nobody_carries_on_is_a_member_as_before(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(place, "_LEAVE_MAX_S", 20.0)
    async with world() as w:
        await w.grow(4)
        door, node = w.doors[0], node_of(w.doors[3])
        await door.parts.membership.change_layout(partial(_draining, node=node))
        await trio.sleep(15)
        assert door.parts.view.layout.member(node).state == "draining"
        with trio.fail_after(20):
            await until(lambda: door.parts.view.layout.member(node).state == "active")


def with_reports(membership: Any, report: Any) -> Any:
    """The same membership, with something between it and a node's reports."""

    class Sneaky(type(membership)):  # type: ignore[misc]
        _report = staticmethod(report)

    values = {
        field.name: getattr(membership, field.name)
        for field in attrs.fields(type(membership))
        if field.init
    }
    return Sneaky(**values)


# ---- layouts --------------------------------------------------------------------------


def members(count: int) -> list[Member]:
    return [Member(NodeId(f"{n:016x}"), 1) for n in range(1, count + 1)]


def test_of_two_leaves_at_once_the_second_sees_the_first() -> None:
    """R2's neighbour: each looks at the layout that it changes."""
    layout = found(members(4), partition_count=16)
    first, second = (member.node for member in members(2))
    draining = _draining(layout, node=first)
    with pytest.raises(Conflict):
        _draining(draining, node=second)


@pytest.mark.parametrize(
    ("count", "may"), [(1, False), (2, True), (3, False), (4, True), (5, True), (6, True)]
)
def test_metadata_keeps_three_voters_where_it_has_them(count: int, may: bool) -> None:
    layout = found(members(count), partition_count=16)
    node = layout.members[0].node
    if may:
        assert _draining(layout, node=node).member(node).state == "draining"
    else:
        with pytest.raises(Conflict):
            _draining(layout, node=node)


def test_only_a_node_on_its_way_out_is_taken_out() -> None:
    layout = found(members(4), partition_count=16)
    node = layout.members[0].node
    with pytest.raises(Conflict):
        _without(layout, node=node)
    gone = _without(with_member_state(layout, node, "draining"), node=node)
    assert gone.find(node) is None


async def test_join_and_leave_meet(autojump_clock: object) -> None:
    """F23: a join during a leave; both happen, one after the other."""
    async with world() as w:
        await w.grow(4)
        leaver = node_of(w.doors[3])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(w.join)
            nursery.start_soon(w.doors[0].call, "POST", f"nodes/{leaver}/leave")
        await w.ends[3].wait()
        known = {member.node for member in w.doors[0].parts.view.layout.members}
        assert leaver not in known
        assert len(known) == 4
