"""Buckets are made and unmade whole, whatever happens half-way and at the same time."""

import pytest
import trio

from objstore.errors import Unavailable
from objstore.meta.bucket_steps import finish
from objstore.meta.commands import (
    CloseBucket,
    CreateBucketRecord,
    DropBucket,
    DropBucketRecord,
    OpenBucket,
    SetBucketState,
)
from objstore.meta.errors import BucketExists, BucketNotEmpty, NoSuchBucket
from objstore.meta.values import BucketState
from objstore.objects import buckets, multipart, put
from objstore.objects.capability import Capability
from objstore.objects.multipart import UploadAttributes
from objstore.objects.requests import ObjectAttributes
from tests.unit.objects.capabilities import drop_bucket, make_bucket, put_leave
from tests.unit.objects.composition import ALICE, BOB, ROOT, BytesBody, composed

PLAIN = ObjectAttributes()


class Died(Exception):
    """The node that ran the request is gone."""


async def names(store, principal=ALICE, **arguments):
    asked = Capability(principal, "s3:ListAllMyBuckets", bucket=None)
    page = await buckets.list_buckets(store, asked, limit=1000, **arguments)
    return [record.name for record in page.buckets]


async def test_bucket_is_open_in_every_slot_before_its_creation_is_answered():
    async with composed() as c:
        record = await make_bucket(c.store)
        assert record.state is BucketState.OPEN
        opened = {x.slot for x in c.meta.proposed if isinstance(x, OpenBucket)}
        assert opened == set(record.span)
        assert await c.another_view().find_bucket("photos") == record


async def test_name_that_is_taken_says_by_whom():
    async with composed() as c:
        await make_bucket(c.store, owner=ALICE)
        with pytest.raises(BucketExists) as caught:
            await make_bucket(c.store, owner=BOB)
        assert caught.value.owner == ALICE.canonical_id


async def test_everybody_sees_their_own_buckets_and_root_all():
    async with composed() as c:
        await make_bucket(c.store, "b-of-alice", owner=ALICE)
        await make_bucket(c.store, "a-of-bob", owner=BOB)
        assert await names(c.store, ALICE) == ["b-of-alice"]
        assert await names(c.store, BOB) == ["a-of-bob"]
        assert await names(c.store, ROOT) == ["a-of-bob", "b-of-alice"]
        assert await names(c.store, ROOT, prefix="b-") == ["b-of-alice"]
        assert await names(c.store, ROOT, after="a-of-bob") == ["b-of-alice"]


async def test_deleted_bucket_leaves_nothing():
    async with composed() as c:
        record = await make_bucket(c.store)
        await drop_bucket(c.store, record)
        with pytest.raises(NoSuchBucket):
            await c.store.find_bucket("photos")
        assert (await make_bucket(c.store)).bucket != record.bucket


async def test_delete_of_a_bucket_in_use_never_marks_it():
    async with composed() as c:
        record = await make_bucket(c.store)
        await put.put_object(c.store, put_leave(record, key=b"k"), BytesBody(b"x"), PLAIN)
        with pytest.raises(BucketNotEmpty):
            await drop_bucket(c.store, record)
        states = [x for x in c.meta.proposed if isinstance(x, SetBucketState)]
        assert [x.state for x in states] == [BucketState.OPEN]


async def test_upload_in_progress_keeps_its_bucket():
    async with composed() as c:
        record = await make_bucket(c.store)
        capability = put_leave(record, key=b"k")
        await multipart.create_upload(c.store, capability, UploadAttributes())
        with pytest.raises(BucketNotEmpty):
            await drop_bucket(c.store, record)


@pytest.mark.parametrize("number", range(6))
async def test_put_that_races_a_delete_lands_and_the_bucket_stays_or_fails(number):
    """A write at every step of the deletion; a commit is one command, so no step is missed."""
    async with composed() as c:
        record = await make_bucket(c.store)
        landed = []
        steps = 0

        async def intrude(command):
            nonlocal steps
            if not isinstance(command, (SetBucketState, CloseBucket, DropBucketRecord)):
                return
            steps += 1
            if steps == number + 1:
                c.meta.before = None
                nursery.start_soon(write)
                for _ in range(5):
                    await trio.lowlevel.checkpoint()

        async def write():
            try:
                await put.put_object(
                    c.store, put_leave(record, key=b"k"), BytesBody(b"x"), PLAIN
                )
                landed.append(True)
            except NoSuchBucket:
                landed.append(False)

        c.meta.before = intrude
        async with trio.open_nursery() as nursery:
            try:
                await drop_bucket(c.store, record)
                is_deleted = True
            except BucketNotEmpty:
                is_deleted = False
        assert landed == [not is_deleted]
        if not is_deleted:
            await put.put_object(
                c.another_view(), put_leave(record, key=b"l"), BytesBody(b"y"), PLAIN
            )


STEPS = [CreateBucketRecord, OpenBucket, SetBucketState]


@pytest.mark.parametrize("step", STEPS)
async def test_creation_cut_anywhere_is_finished_by_whoever_comes_next_f02(step):
    async with composed() as c:

        def die(command):
            if isinstance(command, step):
                raise Died

        c.meta.after = die
        with pytest.raises(Exception):  # Died, alone or in a group.
            await make_bucket(c.store)
        c.meta.after = None
        await c.view.refresh()
        left = c.view.bucket("photos")
        assert left is not None
        if left.state is BucketState.CREATING:
            assert await names(c.store) == []
            record = await make_bucket(c.store)  # The same client, again.
            assert record.bucket == left.bucket
        await put.put_object(
            c.store,
            put_leave(await c.store.find_bucket("photos"), key=b"k"),
            BytesBody(b"x"),
            PLAIN,
        )


@pytest.mark.parametrize("step", [SetBucketState, CloseBucket, DropBucket])
async def test_deletion_cut_anywhere_is_finished_by_the_worker_f02(step):
    async with composed() as c:
        record = await make_bucket(c.store)

        def die(command):
            if isinstance(command, step):
                raise Died

        c.meta.after = die
        with pytest.raises(Exception):  # Died, alone or in a group.
            await drop_bucket(c.store, record)
        c.meta.after = None
        await c.view.refresh()
        left = c.view.bucket("photos")
        assert left.state is not BucketState.OPEN
        assert await finish(c.store.propose_each, left) is None
        await c.view.refresh()
        with pytest.raises(NoSuchBucket):
            await c.store.find_bucket("photos")


async def test_finishing_twice_at_once_is_as_good_as_once():
    async with composed() as c:
        record = await make_bucket(c.store)
        closing = await c.store.propose(
            SetBucketState("photos", record.bucket, 1, BucketState.CLOSING)
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(finish, c.store.propose_each, closing)
            nursery.start_soon(finish, c.another_view().propose_each, closing)
        assert await names(c.store) == []


async def test_slot_that_cannot_be_reached_leaves_the_deletion_to_be_taken_up():
    async with composed() as c:
        record = await make_bucket(c.store)

        def lose(command):
            if isinstance(command, CloseBucket) and command.slot == record.span[2]:
                raise Unavailable("no leader")

        c.meta.before = lose
        with pytest.raises(Unavailable):
            await drop_bucket(c.store, record)
        c.meta.before = None
        await c.view.refresh()
        left = c.view.bucket("photos")
        assert left.state is BucketState.CLOSING
        await finish(c.store.propose_each, left)
        assert await names(c.store) == []
