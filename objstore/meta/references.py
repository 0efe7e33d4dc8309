"""References from rows to chunks: held by a version or part, displaced, let go.

    hold      a row came to refer to chunks:  CHUNK rows, BELOW rows, counters
    let_go    a row refers to them no more:   those go, a RELEASED row comes
    displace  a fragment is found elsewhere, or missing, or mended

A chunk belongs to one row, ever.  BELOW has every chunk with a fragment that is missing
or in a stand-in's hands, by rank: how many more fragments may be lost, plus one; chunks
that are whole but have stand-ins come last.  The counters know only the missing.
"""

from __future__ import annotations

from functools import lru_cache

from objstore.ec.scheme import Scheme
from objstore.ids import BucketId, ChunkId, Epoch, Key, UploadId
from objstore.meta import payloads, schema
from objstore.meta.payloads import Place
from objstore.meta.values import (
    ChunkPlace,
    ChunkRef,
    Chunks,
    Displaced,
    External,
    Inline,
    Location,
    Parts,
)
from objstore.meta.work import Work

STAND_IN_RANK = 200  # Above any rank that comes of missing fragments.


@lru_cache(maxsize=256)
def _spare(scheme: str) -> int:
    return Scheme.parse(scheme).m


def missing(ref: ChunkRef) -> int:
    """How many fragments of the chunk nobody has."""
    return sum(1 for displaced in ref.displaced if displaced.node is None)


def rank_of(scheme: str, ref: ChunkRef) -> int | None:
    """The chunk's place in the below-promise index; None: all is where it belongs."""
    if not ref.displaced:
        return None
    lost = missing(ref)
    return max(0, _spare(scheme) - lost + 1) if lost else STAND_IN_RANK


def below_of(chunks: tuple[ChunkRef, ...]) -> tuple[int, int]:
    """(1 if any chunk has a missing fragment, bytes of those that have)."""
    sizes = [ref.size for ref in chunks if ref.displaced and missing(ref)]
    return (1 if sizes else 0), sum(sizes)


def hold(work: Work, place: Place, location: Location) -> None:
    """Note that the row at `place` refers to the bytes at `location`."""
    if not isinstance(location, Chunks):
        return
    owner = payloads.pack((place.order, place.upload, place.part_number))
    for ref in location.chunks:
        work.rows.put(schema.chunk_key(work.slot, ref.chunk), owner)
        _put_below(work, place, location.scheme, ref)
    _count_below(work, BucketId(place.bucket), location.chunks, 1)


def _put_below(work: Work, place: Place, scheme: str, ref: ChunkRef) -> None:
    rank = rank_of(scheme, ref)
    if rank is not None:
        row = payloads.pack_below(place, scheme, ref)
        work.rows.put(schema.below_key(work.slot, rank, ref.chunk), row)


def _delete_below(work: Work, scheme: str, ref: ChunkRef) -> None:
    rank = rank_of(scheme, ref)
    if rank is not None:
        work.rows.delete(schema.below_key(work.slot, rank, ref.chunk))


def _count_below(
    work: Work, bucket: BucketId, chunks: tuple[ChunkRef, ...], sign: int
) -> None:
    objects, size = below_of(chunks)
    if objects:
        work.count(bucket, below=(sign * objects, sign * size))


def let_go(work: Work, bucket: BucketId, key: Key, location: Location | None) -> None:
    """Note that no row refers to these bytes any more; queue their freeing."""
    match location:
        case None | Inline():
            pass
        case Chunks(scheme, chunks):
            for ref in chunks:
                work.rows.delete(schema.chunk_key(work.slot, ref.chunk))
                _delete_below(work, scheme, ref)
            _count_below(work, bucket, chunks, -1)
            release(work, scheme, chunks)
        case Parts(upload, _count):
            queue_purge(work, bucket, key, upload, unlisted_only=False)
        case External():
            # Nothing makes one yet; when something does, its feature level says how.
            raise AssertionError("external bytes cannot be let go of")


def release(work: Work, scheme: str, chunks: tuple[ChunkRef, ...]) -> None:
    """Queue chunks that nothing refers to for deletion everywhere."""
    if chunks:
        row = (work.time_ms, scheme, [payloads.pack_chunk(ref) for ref in chunks])
        sequence = work.next_released()
        work.rows.put(schema.released_key(work.slot, sequence), payloads.pack(row))


def queue_purge(
    work: Work, bucket: BucketId, key: Key, upload: UploadId, *, unlisted_only: bool
) -> None:
    """Queue an upload's parts for deletion: all, or those its part map does not list."""
    name = purge_name(bucket, upload)
    row_key = schema.expiry_key(work.slot, 0, schema.Expiring.PURGE, name)
    work.rows.put(row_key, payloads.pack((key, unlisted_only, 0)))


def purge_name(bucket: BucketId, upload: UploadId) -> bytes:
    return bucket.to_bytes(8, "big") + bytes.fromhex(upload)


def place_of(place: ChunkPlace) -> Place:
    """The packed form; a part's place never has an order."""
    if place.upload is None:
        return Place(place.bucket, place.key, place.order, "", 0)
    return Place(place.bucket, place.key, 0, place.upload, place.part_number)


def chunk_place(place: Place, chunk: ChunkId) -> ChunkPlace:
    return ChunkPlace(
        bucket=BucketId(place.bucket),
        key=Key(place.key),
        chunk=chunk,
        order=place.order,
        upload=UploadId(place.upload) if place.upload else None,
        part_number=place.part_number,
    )


# ---- displacement ---------------------------------------------------------------------


def displaced_after(
    ref: ChunkRef, changes: tuple[tuple[int, str | None, str | None], ...]
) -> tuple[Displaced, ...]:
    """`ref.displaced` after those changes that found what they expected.

    In a change, "" stands for "on its ring owner" and None for missing.
    """
    state: dict[int, str | None] = {d.index: d.node for d in ref.displaced}
    for index, found, now in changes:
        if state.get(index, "") != found:
            continue
        if now == "":
            state.pop(index, None)
        else:
            state[index] = now
    return tuple(
        Displaced(index, payloads.node_or_none(node))
        for index, node in sorted(state.items())
    )


def displace(
    work: Work,
    place: Place,
    location: Location | None,
    chunk: ChunkId,
    changes: tuple[tuple[int, str | None, str | None], ...],
) -> tuple[Chunks, ChunkRef] | None:
    """The location and ref of `chunk` after `changes`, with index and counters moved.

    None where the location does not refer to the chunk.  The caller rewrites its row.
    """
    if not isinstance(location, Chunks):
        return None
    found = [ref for ref in location.chunks if ref.chunk == chunk]
    if not found:
        return None
    before = found[0]
    after = ChunkRef(
        before.chunk, before.size, Epoch(before.epoch), displaced_after(before, changes)
    )
    chunks = tuple(after if ref is before else ref for ref in location.chunks)
    bucket = BucketId(place.bucket)
    _delete_below(work, location.scheme, before)
    _put_below(work, place, location.scheme, after)
    _count_below(work, bucket, location.chunks, -1)
    _count_below(work, bucket, chunks, 1)
    return Chunks(location.scheme, chunks), after
