"""Objects go in and come out; what breaks on the way leaves nothing visible."""

import hashlib

import pytest
import trio

from objstore.config import HttpConfig
from objstore.errors import Unavailable
from objstore.ids import Key
from objstore.limits import BLOCK_SIZE
from objstore.meta.commands import (
    BeginIntent,
    DropIntent,
    PutVersion,
    WriteCondition,
)
from objstore.meta.errors import NoSuchBucket, NoSuchKey, PreconditionFailed
from objstore.meta.payloads import unpack_draft
from objstore.meta.values import Chunks, Inline
from objstore.objects import copy, delete, get, patience, put
from objstore.objects.budget import Budget, Overloaded
from objstore.objects.get import NoSuchPart
from objstore.objects.requests import (
    DigestMismatch,
    ExpectedDigest,
    ObjectAttributes,
)
from objstore.objects.scatter import TooFewOwners
from objstore.units import KiB, MiB
from tests.unit.objects.capabilities import (
    drop_bucket,
    get_leave,
    leave,
    make_bucket,
    put_leave,
)
from tests.unit.objects.composition import BytesBody, composed

PLAIN = ObjectAttributes()
ABSENT_ONLY = ObjectAttributes(condition=WriteCondition(if_none_match=("*",)))


def content(size):
    return hashlib.shake_128(str(size).encode()).digest(size)


async def read_all(store, capability, version, offset=0, size=None):
    size = version.draft.size - offset if size is None else size
    pieces = get.read(store, capability, version, offset=offset, size=size)
    return b"".join([bytes(piece) async for piece in pieces])


async def fetch(store, record, key):
    capability = get_leave(record, key=key)
    version = await get.find_version(store, capability)
    return await read_all(store, capability, version)


@pytest.mark.parametrize("size", [0, 1, 16 * KiB])
async def test_small_object_rides_in_one_command(size):
    async with composed() as c:
        record = await make_bucket(c.store)
        before = len(c.meta.proposed)
        body = BytesBody(content(size))
        stored = await put.put_object(c.store, put_leave(record, key=b"k"), body, PLAIN)
        assert [type(x) for x in c.meta.proposed[before:]] == [PutVersion]
        assert stored.result.etag == hashlib.md5(body.data).hexdigest()
        assert stored.checksum.algorithm == "CRC64NVME"
        assert await fetch(c.store, record, b"k") == body.data


@pytest.mark.parametrize("size", [16 * KiB + 1, BLOCK_SIZE, 2 * MiB, 5 * MiB + 3])
async def test_large_object_is_cut_into_chunks_under_an_intent(size):
    async with composed() as c:
        record = await make_bucket(c.store)
        before = len(c.meta.proposed)
        body = BytesBody(content(size))
        await put.put_object(c.store, put_leave(record, key=b"k"), body, PLAIN)
        assert c.meta.names()[before:] == ["BeginIntent", "PutVersion"]
        location = unpack_draft(c.meta.proposed[-1].draft).location
        assert isinstance(location, Chunks)
        assert [ref.size for ref in location.chunks] == [
            min(2 * MiB, size - offset) for offset in range(0, size, 2 * MiB)
        ]
        assert await fetch(c.store, record, b"k") == body.data


async def test_large_objects_that_follow_each_other_share_the_entries_of_their_intents():
    async with composed() as c:
        record = await make_bucket(c.store)
        before = len(c.meta.proposed)
        for number in range(12):
            body = BytesBody(content(17 * KiB + number))
            await put.put_object(c.store, put_leave(record, key=b"k"), body, PLAIN)
            assert await fetch(c.store, record, b"k") == body.data
        names = c.meta.names()[before:]
        assert (names.count("BeginIntent"), names.count("PutVersion")) == (4, 12)
        intents = [x.intent for x in c.meta.proposed if isinstance(x, PutVersion)]
        assert len(set(intents)) == 12


async def test_bucket_that_went_while_an_intent_was_kept_for_it_is_told_by_the_commit():
    async with composed() as c:
        record = await make_bucket(c.store)
        capability = put_leave(record, key=b"k")
        for _ in range(2):
            body = BytesBody(content(MiB))
            await put.put_object(c.store, capability, body, PLAIN)
        await delete.delete_object(c.store, leave(record, "s3:DeleteObject", b"k"))
        before = len(c.meta.proposed)
        await drop_bucket(c.another_view(), record)
        with pytest.raises(NoSuchBucket):
            await put.put_object(c.store, capability, BytesBody(content(MiB)), PLAIN)
        assert c.meta.names()[-1] == "DropIntent"
        assert "BeginIntent" not in c.meta.names()[before:]


async def test_any_range_of_a_chunked_object_is_its_bytes():
    async with composed() as c:
        record = await make_bucket(c.store)
        data = content(5 * MiB)
        await put.put_object(c.store, put_leave(record, key=b"k"), BytesBody(data), PLAIN)
        capability = get_leave(record, key=b"k")
        version = await get.find_version(c.store, capability)
        for offset, size in [(0, 1), (2 * MiB - 1, 2), (MiB + 7, 3 * MiB), (5 * MiB, 0)]:
            found = await read_all(c.store, capability, version, offset, size)
            assert found == data[offset : offset + size]


@pytest.mark.parametrize("size", [10, 3 * MiB])
async def test_wrong_digest_leaves_nothing_visible(size):
    async with composed() as c:
        record = await make_bucket(c.store)
        body = BytesBody(content(size), digests=[ExpectedDigest("MD5", bytes(16))])
        with pytest.raises(DigestMismatch):
            await put.put_object(c.store, put_leave(record, key=b"k"), body, PLAIN)
        with pytest.raises(NoSuchKey):
            await fetch(c.store, record, b"k")
        assert not any(isinstance(x, PutVersion) for x in c.meta.proposed)


async def test_wrong_trailing_checksum_leaves_nothing_visible():
    async with composed() as c:
        record = await make_bucket(c.store)
        body = BytesBody(
            content(3 * MiB),
            trailing_algorithm="CRC32",
            trailing=[ExpectedDigest("CRC32", b"oops")],
        )
        with pytest.raises(DigestMismatch):
            await put.put_object(c.store, put_leave(record, key=b"k"), body, PLAIN)
        assert c.meta.names()[-1] == "DropIntent"


async def test_payload_hash_and_sha256_share_one_computation():
    async with composed() as c:
        record = await make_bucket(c.store)
        data = content(100)
        digest = hashlib.sha256(data).digest()
        body = BytesBody(
            data,
            digests=[
                ExpectedDigest("SHA256-PAYLOAD", digest),
                ExpectedDigest("SHA256", digest),
            ],
        )
        asked = ObjectAttributes(checksum_algorithm="SHA256")
        stored = await put.put_object(c.store, put_leave(record, key=b"k"), body, asked)
        assert stored.checksum.value == digest


async def test_client_that_leaves_in_the_middle_leaves_nothing_behind_f35():
    async with composed() as c:
        record = await make_bucket(c.store)
        error = Unavailable("the client left")
        body = BytesBody(content(5 * MiB), fails_at=3 * MiB, error=error)
        with pytest.raises(Unavailable) as caught:
            await put.put_object(c.store, put_leave(record, key=b"k"), body, PLAIN)
        assert caught.value is error
        dropped = c.meta.proposed[-1]
        assert isinstance(dropped, DropIntent)
        assert len(dropped.written) == 2  # The whole chunk, and the one it left in.
        assert c.store.budget.held == 0


async def test_cancelled_write_drops_its_intent_f35():
    async with composed() as c:
        record = await make_bucket(c.store)
        with trio.CancelScope() as scope:

            async def cancel(command):
                if isinstance(command, PutVersion):
                    scope.cancel()
                    await trio.lowlevel.checkpoint()

            c.meta.before = cancel
            await put.put_object(
                c.store, put_leave(record, key=b"k"), BytesBody(content(MiB)), PLAIN
            )
        c.meta.before = None
        assert c.meta.names()[-1] == "DropIntent"


async def test_lost_answer_of_a_commit_and_the_drop_after_it_keep_the_object():
    async with composed() as c:
        record = await make_bucket(c.store)

        def lose(command):
            if isinstance(command, PutVersion):
                raise Unavailable("no answer", unknown=True)

        c.meta.after = lose
        data = content(MiB)
        with pytest.raises(Unavailable) as caught:
            await put.put_object(
                c.store, put_leave(record, key=b"k"), BytesBody(data), PLAIN
            )
        assert caught.value.unknown
        c.meta.after = None
        assert c.meta.names()[-1] == "DropIntent"
        assert await fetch(c.store, record, b"k") == data


class SlowBody(BytesBody):
    async def __aiter__(self):
        async for piece in super().__aiter__():
            await trio.sleep(200)
            yield piece


async def test_version_of_an_epoch_that_the_view_has_yet_to_learn_of_is_read():
    async with composed() as c:
        record = await make_bucket(c.store)
        data = content(MiB)
        await put.put_object(c.store, put_leave(record, key=b"k"), BytesBody(data), PLAIN)
        other = c.another_view()
        other.view.knows_epoch = False
        assert await fetch(other, record, b"k") == data


async def test_intent_that_cannot_be_renewed_in_time_is_renewed_a_little_later(
    autojump_clock,
):
    """A shard without a leader for a while does not end an upload of hours."""
    async with composed() as c:
        record = await make_bucket(c.store)
        lost = []

        def lose(command):
            if isinstance(command, BeginIntent) and command.is_renewal and len(lost) < 3:
                lost.append(command)
                raise Unavailable("no leader")

        c.meta.before = lose
        body = SlowBody(content(MiB), piece_size=64 * KiB)
        await put.put_object(c.store, put_leave(record, key=b"k"), body, PLAIN)
        assert len(lost) == 3
        assert await fetch(c.store, record, b"k") == body.data


async def test_slow_body_renews_its_intent(autojump_clock):
    async with composed() as c:
        record = await make_bucket(c.store)

        body = SlowBody(content(MiB), piece_size=128 * KiB)
        await put.put_object(c.store, put_leave(record, key=b"k"), body, PLAIN)
        begun = [x for x in c.meta.proposed if isinstance(x, BeginIntent)]
        assert [x.is_renewal for x in begun] == [False, True, True, True]


async def test_hopeless_condition_is_told_before_the_body_is_read():
    async with composed() as c:
        record = await make_bucket(c.store)
        capability = put_leave(record, key=b"k")
        await put.put_object(c.store, capability, BytesBody(b"first"), PLAIN)
        body = BytesBody(content(3 * MiB))
        with pytest.raises(PreconditionFailed):
            await put.put_object(c.store, capability, body, ABSENT_ONLY)
        assert body.read == 0


async def test_of_racing_creators_one_wins_f39():
    async with composed() as c:
        record = await make_bucket(c.store)
        outcomes = []

        async def create(number):
            body = BytesBody(b"%d" % number)
            try:
                await put.put_object(
                    c.store, put_leave(record, key=b"k"), body, ABSENT_ONLY
                )
                outcomes.append(number)
            except PreconditionFailed:
                pass

        async with trio.open_nursery() as nursery:
            for number in range(32):
                nursery.start_soon(create, number)
        assert len(outcomes) == 1
        assert await fetch(c.store, record, b"k") == b"%d" % outcomes[0]


async def test_if_match_on_nothing_is_no_such_key():
    async with composed() as c:
        record = await make_bucket(c.store)
        asked = ObjectAttributes(condition=WriteCondition(if_match=("*",)))
        with pytest.raises(NoSuchKey):
            await put.put_object(
                c.store, put_leave(record, key=b"k"), BytesBody(b"x"), asked
            )


async def test_bucket_made_anew_elsewhere_is_found_by_a_stale_view():
    async with composed() as c:
        record = await make_bucket(c.store)
        other = c.another_view()
        stale = await other.find_bucket("photos")
        await drop_bucket(c.store, record)
        await make_bucket(c.store)
        for size in (1, 3 * MiB):
            body = BytesBody(content(size))
            await put.put_object(other, put_leave(stale, key=b"k"), body, PLAIN)
            assert await fetch(other, stale, b"k") == body.data


async def test_bucket_deleted_during_a_large_put_never_gets_the_object():
    async with composed() as c:
        record = await make_bucket(c.store)
        did = []

        async def replace_bucket(command):
            if isinstance(command, PutVersion) and not did:
                did.append(command)
                await drop_bucket(c.store, record)
                await make_bucket(c.store)

        c.meta.before = replace_bucket
        with pytest.raises(NoSuchBucket):
            await put.put_object(
                c.store, put_leave(record, key=b"k"), BytesBody(content(MiB)), PLAIN
            )
        c.meta.before = None
        now = await c.store.find_bucket("photos")
        with pytest.raises(NoSuchKey):
            await fetch(c.store, now, b"k")


async def test_copy_of_a_small_object_stays_inline_and_of_a_large_one_is_new_chunks():
    async with composed() as c:
        record = await make_bucket(c.store)
        for key, size in ((b"small", 10), (b"large", 3 * MiB)):
            data = content(size)
            await put.put_object(
                c.store, put_leave(record, key=key), BytesBody(data), PLAIN
            )
            source = get_leave(record, key=key)
            version = await get.find_version(c.store, source)
            target = put_leave(record, key=key + b"-copy")
            stored = await copy.copy_object(c.store, source, version, target, PLAIN)
            assert stored.result.etag == version.draft.etag
            assert await fetch(c.store, record, key + b"-copy") == data
            copied = unpack_draft(c.meta.proposed[-1].draft).location
            assert type(copied) is type(version.draft.location)
            assert copied != version.draft.location or isinstance(copied, Inline)


async def test_object_without_parts_is_its_part_one():
    async with composed() as c:
        record = await make_bucket(c.store)
        await put.put_object(c.store, put_leave(record, key=b"k"), BytesBody(b"abc"), PLAIN)
        capability = get_leave(record, key=b"k")
        version = await get.find_version(c.store, capability)
        assert (await get.find_part(c.store, capability, version, 1)).size == 3
        with pytest.raises(NoSuchPart):
            await get.find_part(c.store, capability, version, 2)


async def test_delete_is_of_what_was_there_and_nothing_is_no_error():
    async with composed() as c:
        record = await make_bucket(c.store)
        await put.put_object(c.store, put_leave(record, key=b"k"), BytesBody(b"abc"), PLAIN)
        capability = leave(record, "s3:DeleteObject", b"k")
        with pytest.raises(PreconditionFailed):
            await delete.delete_object(
                c.store, capability, WriteCondition(if_match=("other",))
            )
        await delete.delete_object(c.store, capability)
        await delete.delete_object(c.store, capability)
        with pytest.raises(NoSuchKey):
            await fetch(c.store, record, b"k")


@pytest.mark.parametrize("ask", ["propose", "query"])
async def test_request_that_goes_on_once_cancelled_ends_as_cancelled(ask):
    async with composed() as c:
        record = await make_bucket(c.store)
        with trio.CancelScope() as scope:
            scope.cancel()  # As a node's end does, before the request's next wait.
            if ask == "propose":
                await delete.delete_object(c.store, leave(record, "s3:DeleteObject", b"k"))
            else:
                await get.find_version(c.store, get_leave(record, key=b"k"))
        assert scope.cancelled_caught


async def test_each_of_many_deletes_has_its_own_outcome():
    async with composed() as c:
        record = await make_bucket(c.store)
        keys = [b"k%d" % number for number in range(100)]
        for key in keys:
            await put.put_object(
                c.store, put_leave(record, key=key), BytesBody(b"x"), PLAIN
            )
        wrong = WriteCondition(if_match=("other",))
        deletions = [
            (leave(record, "s3:DeleteObject", key), wrong if n == 7 else WriteCondition())
            for n, key in enumerate(keys)
        ]
        results = await delete.delete_objects(c.store, deletions)
        failed = [n for n, r in enumerate(results) if isinstance(r, PreconditionFailed)]
        assert failed == [7]
        assert await fetch(c.store, record, b"k7") == b"x"


async def test_capability_is_for_one_action_only():
    async with composed() as c:
        record = await make_bucket(c.store)
        with pytest.raises(AssertionError):
            await put.put_object(
                c.store, get_leave(record, key=b"k"), BytesBody(b""), PLAIN
            )
        with pytest.raises(AssertionError):
            await delete.delete_object(c.store, put_leave(record, key=Key(b"k")))


async def test_memory_of_reads_and_copies_is_held_once_and_given_back_f43():
    async with composed() as c:
        record = await make_bucket(c.store)
        await put.put_object(
            c.store, put_leave(record, key=b"k"), BytesBody(content(3 * MiB)), PLAIN
        )
        c.store.budget = Budget(12 * MiB, wait_ms=50)
        source = get_leave(record, key=b"k")
        version = await get.find_version(c.store, source)
        pieces = get.read(c.store, source, version, offset=0, size=3 * MiB)
        await anext(pieces)
        assert c.store.budget.held == 3 * MiB
        # A copy asks for all that it needs at once, or not at all.
        with pytest.raises(Overloaded):
            async with c.store.budget.hold(8 * MiB):
                await copy.copy_object(
                    c.store, source, version, put_leave(record, key=b"c"), PLAIN
                )
        await pieces.aclose()
        await copy.copy_object(c.store, source, version, put_leave(record, key=b"c"), PLAIN)
        assert c.store.budget.held == 0
        assert await fetch(c.store, record, b"c") == content(3 * MiB)


async def test_shard_that_does_not_answer_costs_a_mass_delete_its_patience_once(
    autojump_clock,
):
    async with composed() as c:
        record = await make_bucket(c.store)

        async def hang(command):
            await trio.sleep(10)
            raise Unavailable("no leader")

        c.meta.before = hang
        leaves = [leave(record, "s3:DeleteObject", b"%d" % n) for n in range(1000)]
        began = trio.current_time()
        results = await delete.delete_objects(
            c.store, [(capability, WriteCondition()) for capability in leaves]
        )
        assert len(results) == 1000
        assert all(isinstance(result, Unavailable) for result in results)
        assert trio.current_time() - began <= 30


async def test_what_owners_that_are_silent_cost_is_not_waited_for_again(
    autojump_clock, monkeypatch
):
    """F16: the write has failed; to give its intent up, nobody answers either."""
    async with composed() as c:
        record = await make_bucket(c.store)

        async def hang(*_, **__):
            await trio.sleep(1000)

        def silent(command):
            return hang() if isinstance(command, DropIntent) else None

        monkeypatch.setattr(c.store.chunks, "create", hang)
        c.meta.before = silent
        body = BytesBody(content(3 * MiB // 2))
        patience.begin(HttpConfig().request_timeout_ms)
        began = trio.current_time()
        with pytest.raises(TooFewOwners):
            await put.put_object(c.store, put_leave(record, key=b"k"), body, PLAIN)
        assert trio.current_time() - began < 9
