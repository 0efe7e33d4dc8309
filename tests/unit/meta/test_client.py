"""Clients, servers, views and reconcilers over real Raft groups in one process."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
import trio
from structlog.testing import capture_logs

from objstore.errors import CorruptData, InvalidRequest, NotFound, OutOfSpace, Unavailable
from objstore.ids import CLUSTER_SHARD, BucketId, Key, NodeId, ShardId, Slot
from objstore.meta import bucket_steps, reads
from objstore.meta import commands as c
from objstore.meta import queries as q
from objstore.meta.errors import (
    BucketNotEmpty,
    NoSuchKey,
    PreconditionFailed,
    StaleBucket,
)
from objstore.meta.proposed import Proposed
from objstore.meta.slots import choose_span, slot_of
from objstore.meta.values import BucketFence, BucketRecord, BucketState
from objstore.ring.layout import encode, with_member, with_member_state
from tests.unit.meta.builders import draft, intent, packed
from tests.unit.meta.cluster_of import (
    GRACE_MS,
    Cluster,
    Node,
    Wire,
    has_voters,
    member,
    node_id,
    running,
)


async def create_bucket(node: Node, name: str = "bucket") -> BucketRecord:
    span = choose_span(Random(1), shard_of=node.view.shard_of, size=3)
    record = await node.client.propose(
        c.CreateBucketRecord(name, "owner", span, "replicate:3")
    )
    made = await bucket_steps.finish(node.client.propose_each, record)
    assert made is not None
    return made


def put(record: BucketRecord, name: bytes, data: bytes = b"x", **more: Any) -> Any:
    key = Key(name)
    slot = slot_of(record.bucket, key, record.span)
    ref = c.BucketRef(record.bucket, record.config_version)
    return c.PutVersion(slot, ref, key, packed(data), **more)


def get(record: BucketRecord, name: bytes) -> q.GetVersion:
    key = Key(name)
    ref = c.BucketRef(record.bucket, record.config_version)
    return q.GetVersion(slot_of(record.bucket, key, record.span), ref, key)


def leader_of(cluster: Cluster, slot: Slot) -> Node:
    nodes = list(cluster.nodes.values())
    shard = nodes[0].view.shard_of(slot)
    (leader,) = [node for node in nodes if node.raft.is_leader(shard)]
    return leader


def others(cluster: Cluster, node: Node) -> list[Node]:
    return [other for other in cluster.nodes.values() if other is not node]


async def test_what_one_node_wrote_every_node_reads(autojump_clock: Any) -> None:
    async with running(1, 2, 3) as cluster:
        one, two, three = cluster.nodes.values()
        record = await create_bucket(one)
        names = [b"k%d" % n for n in range(20)]
        for number, name in enumerate(names):
            writer = (one, two, three)[number % 3]
            await writer.client.propose(put(record, name, name))
        for reader in (one, two, three):
            for name in names:
                version = await reader.client.query(get(record, name))
                assert version.draft == draft(name)
        ref = c.BucketRef(record.bucket, record.config_version)
        page = await two.client.query(q.ListKeys(record.span, ref, limit=7))
        assert list(page.names) == sorted(names)[:7]
        assert page.is_truncated
        usage = await three.client.query(q.GetUsage(record.span, record.bucket))
        assert (usage.objects, usage.versions) == (20, 20)


async def test_a_node_with_a_replica_reads_its_own_rows(
    autojump_clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(1, 2, 3) as cluster:
        writer = cluster.nodes[node_id(1)]
        record = await create_bucket(writer)
        asked: list[str] = []
        call = Wire.call

        async def counted(
            self: Wire, to: NodeId, method: str, *rest: Any, **more: Any
        ) -> Any:
            asked.append(method)
            return await call(self, to, method, *rest, **more)

        for number in range(12):
            name = b"k%d" % number
            await writer.client.propose(put(record, name, name))
            with monkeypatch.context() as patched:
                patched.setattr(Wire, "call", counted)
                for reader in cluster.nodes.values():
                    version = await reader.client.query(get(record, name))
                    assert version.draft == draft(name)
        assert "meta.query" not in asked


async def test_a_leader_applies_the_command_that_it_decoded_to_check_it(
    autojump_clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And its followers what they decode; a leader's own proposal is decoded by all."""
    taken: list[tuple[Proposed, bool]] = []
    take = Proposed.take

    def watched(self: Proposed, data: bytes) -> Any:
        command = take(self, data)
        if b"a body" in data:
            taken.append((self, command is not None))
        return command

    async with running(1, 2, 3) as cluster:
        record = await create_bucket(cluster.nodes[node_id(1)])
        leader = leader_of(cluster, put(record, b"k").slot)
        for writer in cluster.nodes.values():
            with monkeypatch.context() as patched:
                taken.clear()
                patched.setattr(Proposed, "take", watched)
                await writer.client.propose(put(record, b"k", b"a body"))
                await cluster.until(lambda: len(taken) == 3)
            reused = [kept for kept, is_taken in taken if is_taken]
            assert reused == ([] if writer is leader else [leader.store.proposed])
        shard = leader.view.shard_of(put(record, b"k").slot)
        replicas = [node.store.machine(shard) for node in cluster.nodes.values()]
        await cluster.until(lambda: len({replica.applied() for replica in replicas}) == 1)
        assert len({replica.state_hash() for replica in replicas}) == 1


async def test_leaders_are_spread_as_the_layout_prefers(autojump_clock: Any) -> None:
    async with running(1, 2, 3) as cluster:
        nodes = list(cluster.nodes.values())

        def is_spread() -> bool:
            return all(
                node.raft.is_leader(group)
                for node in nodes
                for group in range(4)
                if node.view.preferred_leader(ShardId(group)) == node.node
            )

        await cluster.until(is_spread)


async def test_of_32_conditional_puts_on_all_nodes_one_wins(autojump_clock: Any) -> None:
    """F39."""
    async with running(1, 2, 3) as cluster:
        nodes = list(cluster.nodes.values())
        record = await create_bucket(nodes[0])
        create = c.WriteCondition(if_none_match=("*",))
        outcomes: list[object] = []

        async def try_put(number: int) -> None:
            command = put(record, b"key", bytes((number,)), condition=create)
            try:
                outcomes.append(await nodes[number % 3].client.propose(command))
            except PreconditionFailed as error:
                outcomes.append(error)

        async with trio.open_nursery() as nursery:
            for number in range(32):
                nursery.start_soon(try_put, number)
        winners = [o for o in outcomes if isinstance(o, c.PutResult)]
        assert (len(winners), len(outcomes)) == (1, 32)


async def test_r13_a_proposal_survives_the_loss_of_its_leader_and_of_every_answer(
    autojump_clock: Any,
) -> None:
    """R13: with answers lost, each command is tried again and applied once."""
    async with running(1, 2, 3) as cluster:
        nodes = list(cluster.nodes.values())
        record = await create_bucket(nodes[0])
        command = put(record, b"key", condition=c.WriteCondition(if_none_match=("*",)))
        leader = leader_of(cluster, command.slot)
        asker = others(cluster, leader)[0]
        asker.wire.lose_answers = True

        async def heal() -> None:
            await trio.sleep(1)
            asker.wire.lose_answers = False

        async with trio.open_nursery() as nursery:
            nursery.start_soon(heal)
            result = await asker.client.propose(command)
        assert isinstance(result, c.PutResult)
        cluster.cut_off.add(leader.node)
        second = put(record, b"other")
        assert isinstance(await asker.client.propose(second), c.PutResult)
        version = await asker.client.query(get(record, b"key"))
        assert version.index == result.index


async def test_answers_lost_to_the_end_leave_the_outcome_unknown(
    autojump_clock: Any,
) -> None:
    """I10."""
    async with running(1, 2, 3) as cluster:
        nodes = list(cluster.nodes.values())
        record = await create_bucket(nodes[0])
        command = put(record, b"key")
        leader = leader_of(cluster, command.slot)
        asker = others(cluster, leader)[0]
        asker.wire.lose_answers = True
        with pytest.raises(Unavailable) as caught:
            await asker.client.propose(command, timeout_ms=2_000)
        assert caught.value.unknown
        with pytest.raises(NoSuchKey):
            await asker.client.query(get(record, b"nothing"))


async def test_what_grows_is_refused_where_a_voter_is_full_and_never_as_if_it_were_known(
    autojump_clock: Any,
) -> None:
    """F09, I10: a refusal says nothing of the attempt before it, whose answer was lost."""
    async with running(1, 2, 3) as cluster:
        nodes = list(cluster.nodes.values())
        record = await create_bucket(nodes[0])
        command = put(record, b"key")
        leader = leader_of(cluster, command.slot)
        asker = others(cluster, leader)[0]
        asker.wire.lose_answers = True

        async def fill() -> None:
            await trio.sleep(0.2)
            asker.wire.lose_answers = False
            for node in nodes:
                node.server.is_full = lambda _: True

        async with trio.open_nursery() as nursery:
            nursery.start_soon(fill)
            with pytest.raises(Unavailable) as caught:
                await asker.client.propose(command)
        assert caught.value.unknown
        assert (await asker.client.query(get(record, b"key"))).draft == draft(b"x")
        with pytest.raises(OutOfSpace):
            await asker.client.propose(put(record, b"other"))
        delete = c.DeleteVersion(command.slot, command.ref, command.key)
        assert isinstance(await asker.client.propose(delete), c.DeleteResult)


async def test_a_node_whose_rows_cannot_be_read_ends_and_answers_nobody_with_the_error(
    autojump_clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F06: damage that only a read meets was a 500 for all who asked its leader."""
    answer = reads.answer
    with pytest.raises(BaseExceptionGroup) as caught:  # noqa: PT012
        async with running(1) as cluster:
            (node,) = cluster.nodes.values()
            record = await create_bucket(node)
            await node.client.propose(put(record, b"key"))

            def fail(rows: object, query: object) -> object:
                monkeypatch.setattr(reads, "answer", answer)
                raise CorruptData("block checksum mismatch")

            monkeypatch.setattr(reads, "answer", fail)
            with pytest.raises(Unavailable):
                await node.client.query(get(record, b"key"), timeout_ms=500)
            await trio.sleep(5)
            raise AssertionError("it went on")
    assert caught.value.subgroup(CorruptData) is not None
    assert caught.value.subgroup(AssertionError) is None


async def test_a_minority_answers_nothing(autojump_clock: Any) -> None:
    """I5, F25."""
    async with running(1, 2, 3) as cluster:
        nodes = list(cluster.nodes.values())
        record = await create_bucket(nodes[0])
        await nodes[0].client.propose(put(record, b"key"))
        cluster.cut_off.update(node.node for node in nodes[1:])
        await trio.sleep(3)
        with pytest.raises(Unavailable):
            await nodes[0].client.query(get(record, b"key"), timeout_ms=1_500)
        with pytest.raises(Unavailable):
            await nodes[0].client.propose(put(record, b"key"), timeout_ms=1_500)
        with pytest.raises(Unavailable):
            await nodes[0].view.refresh(timeout_ms=1_500)
        assert not nodes[0].view.is_confirmed_within(2_000)
        cluster.cut_off.clear()
        version = await nodes[0].client.query(get(record, b"key"))
        assert version.draft == draft(b"x")
        await cluster.until(lambda: nodes[0].view.is_confirmed_within(2_000))


async def test_a_leader_that_only_a_third_node_reaches_is_asked_through_it(
    autojump_clock: Any,
) -> None:
    """F18: no election helps, as the leader leads on."""
    async with running(1, 2, 3) as cluster:
        nodes = list(cluster.nodes.values())
        record = await create_bucket(nodes[0])
        command = put(record, b"key")
        shard = nodes[0].view.shard_of(command.slot)
        (leader,) = [node for node in nodes if node.raft.is_leader(shard)]
        asker = others(cluster, leader)[0]
        cluster.cut_pairs.append({leader.node, asker.node})
        for number in range(20):
            began = trio.current_time()
            data = b"%d" % number
            written = await asker.client.propose(put(record, b"key", data))
            assert isinstance(written, c.PutResult)
            version = await asker.client.query(get(record, b"key"))
            assert version.draft == draft(data)
            assert trio.current_time() - began < 1
        assert leader.raft.is_leader(shard)
        with pytest.raises(NoSuchKey):
            await asker.client.query(get(record, b"missing"))


async def test_a_follower_that_cannot_be_read_is_not_asked_again(
    autojump_clock: Any,
) -> None:
    async with running(1, 2, 3, 4) as cluster:
        nodes = list(cluster.nodes.values())
        record = await create_bucket(nodes[0])
        await nodes[0].client.propose(put(record, b"key"))
        shard = nodes[0].view.shard_of(put(record, b"key").slot)
        (asker,) = [node for node in nodes if node.raft.status(shard) is None]
        (leader,) = [node for node in nodes if node.raft.is_leader(shard)]
        follower = next(node for node in others(cluster, leader) if node is not asker)
        asker.client._leaders[shard] = follower.node  # It has answered before.
        cluster.cut_pairs.append({leader.node, follower.node})
        for limit_s in (0.7, 0.1):
            began = trio.current_time()
            assert await asker.client.query(get(record, b"key"))
            assert trio.current_time() - began < limit_s
        assert follower.raft.leader(shard) == leader.node  # It has not noticed yet.


async def test_errors_come_back_with_what_they_say(autojump_clock: Any) -> None:
    async with running(1, 2, 3) as cluster:
        nodes = list(cluster.nodes.values())
        record = await create_bucket(nodes[0])
        await nodes[0].client.propose(put(record, b"key"))
        create = c.WriteCondition(if_none_match=("*",))
        for node in nodes:
            with pytest.raises(PreconditionFailed) as caught:
                await node.client.propose(put(record, b"key", condition=create))
            assert caught.value.condition == "If-None-Match"
            with pytest.raises(InvalidRequest):
                await node.client.propose(put(record, b"k" * 1025))
            with pytest.raises(NotFound):
                await node.client.query(get(record, b"missing"))


# ---- views ----------------------------------------------------------------------------


async def test_a_refreshed_view_shows_what_was_acknowledged_before(
    autojump_clock: Any,
) -> None:
    async with running(1, 2, 3) as cluster:
        nodes = list(cluster.nodes.values())
        for number in range(6):
            name = f"bucket{number}"
            record = await create_bucket(nodes[number % 3], name)
            for node in nodes:
                await node.view.refresh()
                assert node.view.bucket(name) == record
                assert node.view.bucket_by_id(record.bucket) == record
        assert nodes[2].view.access_key("ROOT") is not None
        assert len(list(nodes[1].view.buckets())) == 6


async def test_views_follow_by_themselves_and_tell_their_subscribers(
    autojump_clock: Any,
) -> None:
    async with running(1, 2, 3, 4, 5) as cluster:
        nodes = list(cluster.nodes.values())
        heard: list[NodeId] = []
        for node in nodes:
            node.view.subscribe(lambda node=node: heard.append(node.node))  # type: ignore[misc]
        await nodes[0].client.propose(c.PutSetting("name", b"value"))
        await cluster.until(
            lambda: all(node.view.setting("name") == b"value" for node in nodes)
        )
        assert set(heard) == {node.node for node in nodes}


async def test_a_restarted_node_knows_the_layout_before_it_hears_anybody(
    autojump_clock: Any,
) -> None:
    async with running(1, 2, 3) as cluster:
        nodes = list(cluster.nodes.values())
        record = await create_bucket(nodes[0])
        await nodes[2].view.refresh()
        await nodes[2].store.flush()
        await cluster.stop(nodes[2])
        cluster.cut_off.add(node_id(3))
        again = await cluster.restart(3)
        assert again.view.is_founded
        assert again.view.bucket("bucket") == record
        assert not again.view.is_confirmed_within(60_000)
        cluster.cut_off.clear()
        await again.view.confirm(1_000)
        assert again.view.is_confirmed_within(1_000)


# ---- the reconciler -------------------------------------------------------------------


async def test_groups_grow_onto_nodes_that_join_and_data_is_there(
    autojump_clock: Any,
) -> None:
    """F23: 1 -> 3 nodes."""
    async with running(1) as cluster:
        (one,) = cluster.nodes.values()
        record = await create_bucket(one)
        await one.client.propose(put(record, b"key"))
        for number in (2, 3):
            layout = with_member(one.view.layout, member(number))
            await one.client.propose(c.SetLayout(encode(layout)))
            await one.view.refresh()
            await cluster.start(number, encode(layout))
        await cluster.until(lambda: has_voters(cluster))
        assert len(one.view.voters(ShardId(1))) == 3
        await cluster.stop(one)
        two = cluster.nodes[node_id(2)]
        version = await two.client.query(get(record, b"key"), timeout_ms=20_000)
        assert version.draft == draft(b"x")


async def test_the_feature_level_is_raised_once_all_members_run_a_newer_program(
    autojump_clock: Any,
) -> None:
    async with running(1, 2, 3) as cluster:
        nodes = list(cluster.nodes.values())
        slot = Slot(0)
        ref, key = c.BucketRef(BucketId(1), 1), Key(b"k")
        newer = c.BeginIntent(slot, ref, key, intent(1), spares=(intent(2),))
        for node in nodes:
            for number, level in ((1, 2), (2, 2), (3, 1)):
                node.reconciler.on_member(node_id(number), is_up=True, level=level)
        await trio.sleep(10)
        assert {node.view.feature_level for node in nodes} == {1}
        with pytest.raises(Unavailable, match="needs feature level 2"):
            await nodes[0].client.propose(newer, timeout_ms=2_000)
        for node in nodes:
            node.reconciler.on_member(node_id(3), is_up=False)
        await trio.sleep(10)  # Who is away may come back with an older program.
        assert {node.view.feature_level for node in nodes} == {1}
        for node in nodes:
            node.reconciler.on_member(node_id(3), is_up=True, level=3)
        await cluster.until(lambda: {n.view.feature_level for n in nodes} == {2})
        with pytest.raises(StaleBucket):  # There is none; but it was understood.
            await nodes[0].client.propose(newer)


async def test_a_leaving_nodes_votes_go_to_others(autojump_clock: Any) -> None:
    async with running(1, 2, 3, 4) as cluster:
        nodes = list(cluster.nodes.values())
        record = await create_bucket(nodes[0])
        await nodes[0].client.propose(put(record, b"key"))
        layout = with_member_state(nodes[0].view.layout, node_id(2), "draining")
        await nodes[0].client.propose(c.SetLayout(encode(layout)))
        two = cluster.nodes[node_id(2)]
        await cluster.until(lambda: not two.raft.groups() and has_voters(cluster))
        version = await two.client.query(get(record, b"key"))
        assert version.draft == draft(b"x")


async def test_a_node_whose_groups_moved_on_while_it_was_away_finds_out(
    autojump_clock: Any,
) -> None:
    """R11: also where none of the members that it knows is left to tell it."""
    async with running(1, 2, 3) as cluster:
        one, three = cluster.nodes[node_id(1)], cluster.nodes[node_id(3)]
        record = await create_bucket(one)
        await one.client.propose(put(record, b"key"))
        await cluster.stop(three)
        layout = one.view.layout
        for number in (4, 5, 6):
            layout = with_member(layout, member(number))
            await one.client.propose(c.SetLayout(encode(layout)))
            await one.view.refresh()
            await cluster.start(number, encode(layout))
        for number in (1, 2, 3):
            layout = with_member_state(layout, node_id(number), "draining")
            await one.client.propose(c.SetLayout(encode(layout)))
        await one.view.refresh()
        two = cluster.nodes[node_id(2)]
        await cluster.until(
            lambda: has_voters(cluster) and not one.raft.groups() + two.raft.groups(),
            within_s=300,
        )
        three = await cluster.restart(3)
        assert three.raft.groups()
        nodes = list(cluster.nodes.values())[:3]
        await cluster.until(
            lambda: not any(node.raft.groups() for node in (one, two, three)),
            within_s=120,
        )
        assert all(node.node not in (1, 2, 3) for node in nodes)
        version = await three.client.query(get(record, b"key"))
        assert version.draft == draft(b"x")


async def test_a_voter_dead_past_the_grace_is_replaced_and_taken_back_when_it_lives(
    autojump_clock: Any,
) -> None:
    async with running(1, 2, 3, 4) as cluster:
        nodes = list(cluster.nodes.values())
        record = await create_bucket(nodes[0])
        dead = nodes[3]
        cluster.cut_off.add(dead.node)

        def state() -> str:
            return nodes[0].view.layout.member(dead.node).state

        await trio.sleep(GRACE_MS / 2000)
        assert state() == "active"
        await cluster.until(lambda: state() == "dead", within_s=GRACE_MS / 1000 + 20)
        await cluster.until(lambda: has_voters(cluster))
        assert all(dead.node not in nodes[0].view.voters(ShardId(n)) for n in range(4))
        await nodes[1].client.propose(put(record, b"key"))
        cluster.cut_off.clear()
        await trio.sleep(5)
        assert state() == "dead"
        await cluster.until(lambda: state() == "active", within_s=60)


async def test_whoever_comes_to_lead_knows_since_when_a_node_is_dead(
    autojump_clock: Any,
) -> None:
    """Not since a death that it saw when it led before: the node has lived since."""
    async with running(1, 2, 3, 4, 5) as cluster:
        nodes = list(cluster.nodes.values())
        preferred = nodes[0].view.preferred_leader(CLUSTER_SHARD)
        assert preferred is not None
        first = cluster.nodes[preferred]
        await cluster.until(lambda: first.raft.is_leader(CLUSTER_SHARD))
        once, gone = others(cluster, first)[:2]
        cluster.cut_off.add(gone.node)
        await first.raft.transfer(CLUSTER_SHARD, once.node)
        await cluster.until(lambda: once.raft.is_leader(CLUSTER_SHARD))
        await cluster.until(lambda: first.raft.is_leader(CLUSTER_SHARD))
        cluster.cut_off.clear()
        await trio.sleep(GRACE_MS / 1000)
        cluster.cut_off.add(gone.node)
        await trio.sleep(3)
        now_ms = int(trio.current_time() * 1000)
        deaths = once.reconciler._deaths
        assert deaths.changes(once.view.layout, now_ms) == []


async def test_half_done_bucket_steps_are_gone_on_with(autojump_clock: Any) -> None:
    async with running(1, 2, 3) as cluster:
        nodes = list(cluster.nodes.values())
        span = choose_span(Random(2), shard_of=nodes[0].view.shard_of, size=3)
        propose = nodes[1].client.propose
        await propose(c.CreateBucketRecord("made", "owner", span, "replicate:3"))
        record = await create_bucket(nodes[0], "gone")
        full = await create_bucket(nodes[0], "full")
        await propose(put(full, b"key"))
        for half in (record, full):
            await propose(c.SetBucketState(half.name, half.bucket, 1, BucketState.CLOSING))

        def is_settled() -> bool:
            view = nodes[0].view
            states = [view.bucket(name) for name in ("made", "full", "gone")]
            made, filled, gone = states
            return (
                made is not None
                and filled is not None
                and made.state is filled.state is BucketState.OPEN
                and gone is None
            )

        await cluster.until(is_settled, within_s=120)
        reopened = nodes[0].view.bucket("full")
        assert reopened is not None
        version = await nodes[0].client.query(get(reopened, b"key"))
        assert version.draft == draft(b"x")
        again = c.SetBucketState(
            "full", full.bucket, reopened.config_version, BucketState.CLOSING
        )
        with pytest.raises(BucketNotEmpty):
            await bucket_steps.finish(nodes[1].client.propose_each, await propose(again))


async def test_a_leader_whose_clock_is_off_does_not_lead(autojump_clock: Any) -> None:
    """F15."""
    async with running(1, 2, 3) as cluster:
        nodes = list(cluster.nodes.values())
        await cluster.until(lambda: any(n.raft.is_leader(0) for n in nodes))
        (leader,) = [node for node in nodes if node.raft.is_leader(0)]
        cluster.world.clock(leader.node).jump(3_600_000)
        await cluster.until(lambda: not leader.raft.is_leader(0), within_s=30)


async def test_one_clock_set_to_2099_moves_no_time(autojump_clock: Any) -> None:
    """F15: nothing expires because a leader's clock is ahead, not even for a moment."""
    async with running(1, 2, 3) as cluster:
        nodes = list(cluster.nodes.values())
        await cluster.until(lambda: any(n.raft.is_leader(0) for n in nodes))
        record = await create_bucket(nodes[0])
        for node in nodes:
            world_clock = cluster.world.clock(node.node)
            world_clock.jump(75 * 365 * 86_400_000)
            others = [n for n in nodes if n is not node]
            for number in range(8):
                key = b"%d" % number
                result = await nodes[0].client.propose(put(record, key))
                now_ms = others[0].host.clock.utc_now_ms()
                assert abs(result.time_ms - now_ms) < 2_000
            world_clock.jump(-75 * 365 * 86_400_000)


async def test_what_is_due_is_drained_by_the_leaders_worker(autojump_clock: Any) -> None:
    async with running(1, 2, 3) as cluster:
        nodes = list(cluster.nodes.values())
        record = await create_bucket(nodes[0])
        slot = await _begin_intent(nodes[0], record)
        for node in nodes:
            cluster.world.clock(node.node).jump(16 * 60_000)
        query = q.IsWanted(slot, record.bucket, Key(b"key"), (bytes(16),))  # type: ignore[arg-type]
        assert await nodes[0].client.query(query) == (True,)
        await trio.sleep(30)
        assert await nodes[0].client.query(query) == (False,)


async def _begin_intent(node: Node, record: BucketRecord) -> Slot:
    slot = slot_of(record.bucket, Key(b"key"), record.span)
    ref = c.BucketRef(record.bucket, record.config_version)
    await node.client.propose(c.BeginIntent(slot, ref, Key(b"key"), bytes(12)))  # type: ignore[arg-type]
    return slot


async def test_r12_equal_replicas_report_equal_hashes(autojump_clock: Any) -> None:
    async with running(1, 2, 3) as cluster:
        nodes = list(cluster.nodes.values())
        record = await create_bucket(nodes[0])
        for number in range(300):
            await nodes[0].client.propose(put(record, b"k%d" % number))
        await trio.sleep(40)  # The reconcilers have compared by then.
        assert all(not node.reconciler._reported for node in nodes)
        marks = [
            {(chain.shard, mark) for chain in node.server.chains() for mark in chain.marks}
            for node in nodes
        ]
        assert marks[0] & marks[1]
        assert nodes[0].store.recount() == []


async def test_r12_a_replica_with_another_hash_is_reported(autojump_clock: Any) -> None:
    async with running(1, 2, 3) as cluster:
        nodes = list(cluster.nodes.values())
        record = await create_bucket(nodes[0])
        for number in range(300):
            await nodes[0].client.propose(put(record, b"k%d" % number))
        preferred = nodes[0].view.preferred_leader(ShardId(1))
        assert preferred is not None
        leader = cluster.nodes[preferred]
        await cluster.until(lambda: leader.raft.is_leader(1))
        other = others(cluster, leader)[0]
        marks = other.store.machine(1).chain_marks
        marks.append((marks.pop()[0], b"something else"))
        with capture_logs() as lines:
            await trio.sleep(40)
        events = [line for line in lines if line["event"] == "meta.replica_diverged"]
        assert [(line["shard"], line["peer"]) for line in events] == [(1, other.node)]


async def test_refreshes_that_wait_for_one_that_fails_fail_with_it(
    autojump_clock: Any,
) -> None:
    """I10: a crowd of requests does not queue for one timeout after another."""
    async with running(1, 2, 3) as cluster:
        nodes = list(cluster.nodes.values())
        cluster.cut_off.update(node.node for node in nodes[1:])
        await trio.sleep(5)
        failed = 0

        async def refresh() -> None:
            nonlocal failed
            try:
                await nodes[0].view.refresh(timeout_ms=1_000)
            except Unavailable:
                failed += 1

        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(refresh)
        assert failed == 50
        assert trio.current_time() - began < 10


async def test_a_query_of_an_unknown_bucket_is_refused_by_every_slot(
    autojump_clock: Any,
) -> None:
    async with running(1) as cluster:
        (one,) = cluster.nodes.values()
        fence = BucketFence(BucketId(5), 1, "unversioned", is_open=True)
        await one.client.propose(c.OpenBucket(Slot(1), fence))
        below = await one.client.query(q.ListBelow((Slot(1), Slot(4000))))
        assert below == ()
