"""The operations on a whole node: Raft, metadata store and chunk store as they really are.

One node on a simulated host and virtual time; the request's sender is introduced, the
rest is as a client finds it.
"""

import base64
import hashlib
from contextlib import asynccontextmanager

import trio

from objstore.config import load
from objstore.node.daemon import run_node
from objstore.testing.host import SimulatedWorld
from objstore.units import MiB
from tests.unit.objects.composition import ALICE
from tests.unit.s3_operations.front import Front, _Introduced
from tests.unit.s3_operations.test_multipart import FIRST, LAST, listed

LARGE = hashlib.shake_128(b"large").digest(3 * MiB + 5)


@asynccontextmanager
async def whole_node(**settings):
    host = SimulatedWorld(1).host("a")
    config = load(
        overrides={
            "node.data": "/data",
            "chunks.reserve": "0B",
            "chunks.segment_size": "32MiB",
            "chunks.chunk_size": "2MiB",
        }
        | settings
    )
    async with trio.open_nursery() as nursery:
        parts = await nursery.start(run_node, config, host, trio.Event())
        parts.s3._authenticator = _Introduced(ALICE)
        yield Front(parts.s3, parts)
        nursery.cancel_scope.cancel()


async def test_life_of_objects_on_a_whole_node(autojump_clock):
    async with whole_node() as front:
        assert (await front.put("/photos")).status == 200
        for key, body in (("small", b"hello"), ("large", LARGE), ("empty", b"")):
            put = await front.put(f"/photos/{key}", body, if_none_match="*")
            assert put.status == 200
            assert (await front.get(f"/photos/{key}")).body == body
            late = await front.put(f"/photos/{key}", body, if_none_match="*")
            assert late.status == 412
        piece = await front.get("/photos/large", range=f"bytes={2 * MiB - 3}-{2 * MiB + 2}")
        assert piece.body == LARGE[2 * MiB - 3 : 2 * MiB + 3]
        copied = await front.put("/photos/copy", x_amz_copy_source="/photos/large")
        assert copied.status == 200
        assert (await front.get("/photos/copy")).body == LARGE
        page = await front.get("/photos?list-type=2")
        assert page.texts("Contents/Key") == ["copy", "empty", "large", "small"]
        assert (await front.delete("/photos")).code == "BucketNotEmpty"
        body = b"<Delete>%s</Delete>" % b"".join(
            b"<Object><Key>%s</Key></Object>" % key.encode()
            for key in page.texts("Contents/Key")
        )
        digest = base64.b64encode(hashlib.md5(body).digest()).decode()
        deleted = await front.post("/photos?delete", body, content_md5=digest)
        assert len(deleted.texts("Deleted/Key")) == 4
        assert (await front.delete("/photos")).status == 204
        assert (await front.head("/photos")).status == 404


async def test_a_key_at_a_virtual_host_may_begin_like_the_admin_api(autojump_clock):
    async with whole_node(**{"s3.domains": ["s3.example.com"]}) as front:
        await front.put("/photos")
        door = Front(front.composition._answer, front.composition)
        at_bucket = {"host": "photos.s3.example.com:9000"}
        put = await door.send("PUT", "/-/health/live", b"a key", at_bucket)
        assert put.status == 200
        assert (await door.send("GET", "/-/health/live", b"", at_bucket)).body == b"a key"
        assert (await door.get("/photos/-/health/live")).body == b"a key"
        for host in ("s3.example.com", "127.0.0.1:9000"):
            health = await door.send("GET", "/-/health/live", b"", {"host": host})
            assert health.status == 200
            assert health.body != b"a key"


async def test_multipart_on_a_whole_node(autojump_clock):
    async with whole_node() as front:
        await front.put("/photos")
        upload_id = (await front.post("/photos/k?uploads")).text("UploadId")
        etags = []
        for number, body in ((2, LAST), (1, FIRST)):
            target = f"/photos/k?partNumber={number}&uploadId={upload_id}"
            etags.append((number, (await front.put(target, body)).headers["etag"]))
        done = await front.post(f"/photos/k?uploadId={upload_id}", listed(sorted(etags)))
        assert done.status == 200
        assert (await front.get("/photos/k")).body == FIRST + LAST
        assert (await front.get("/photos/k?partNumber=2")).body == LAST
        whole = await front.get("/photos/k", range="bytes=-3")
        assert whole.body == LAST[-3:]


async def test_32_writers_of_one_new_key_have_one_winner_f39(autojump_clock):
    async with whole_node() as front:
        await front.put("/photos")
        statuses = []

        async def write(number):
            answer = await front.put("/photos/k", b"%d" % number, if_none_match="*")
            statuses.append(answer.status)

        async with trio.open_nursery() as nursery:
            for number in range(32):
                nursery.start_soon(write, number)
        assert sorted(statuses) == [200] + [412] * 31
