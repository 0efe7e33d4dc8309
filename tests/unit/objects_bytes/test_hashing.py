"""Hashes of a stream, against the libraries' own."""

from __future__ import annotations

import hashlib
import zlib

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from objstore.objects.hashing import ALGORITHMS, StreamHasher, digest_of
from objstore.testing.threads import SimulatedThreads
from objstore.units import KiB, MiB

# The check values of the CRC catalogue (reveng), of b"123456789".
KNOWN = {"CRC32": "cbf43926", "CRC32C": "e3069283", "CRC64NVME": "ae8b14860a799888"}


@pytest.mark.parametrize("algorithm", KNOWN)
def test_crcs_are_those_of_the_catalogue(algorithm: str) -> None:
    assert digest_of(b"123456789", [algorithm])[algorithm].hex() == KNOWN[algorithm]


def expected(data: bytes) -> dict[str, bytes]:
    return {
        "MD5": hashlib.md5(data).digest(),
        "SHA1": hashlib.sha1(data).digest(),
        "SHA256": hashlib.sha256(data).digest(),
        "CRC32": zlib.crc32(data).to_bytes(4, "big"),
    }


@given(st.lists(st.integers(0, 40 * KiB), max_size=8), st.sets(st.sampled_from(ALGORITHMS)))
@settings(max_examples=30, deadline=None)
@pytest.mark.parametrize("pipelined", [False, True])
def test_pieces_hash_as_the_whole(
    pipelined: bool, sizes: list[int], algorithms: set[str]
) -> None:
    pieces = [bytes([n % 251]) * size for n, size in enumerate(sizes)]

    async def run() -> dict[str, bytes]:
        hasher = StreamHasher(algorithms, SimulatedThreads())
        if not pipelined:
            for piece in pieces:
                await hasher.update(piece)
            return await hasher.finish()
        async with hasher:
            for piece in pieces:
                await hasher.update(memoryview(piece))
            return await hasher.finish()

    found = trio.run(run)
    assert found == digest_of(b"".join(pieces), algorithms)
    reference = expected(b"".join(pieces))
    assert all(found[name] == reference[name] for name in algorithms & set(reference))


async def test_pipelined_update_waits_only_for_room(autojump_clock) -> None:
    threads = SimulatedThreads(delay_s=1.0)
    block = bytes(MiB)
    async with StreamHasher(["MD5", "SHA256"], threads) as hasher:
        began = trio.current_time()
        await hasher.update(block)
        await hasher.update(block)
        assert trio.current_time() - began < 0.1
        for _ in range(3):
            await hasher.update(block)
        digests = await hasher.finish()
        assert trio.current_time() - began == pytest.approx(5)
    assert digests["MD5"] == hashlib.md5(5 * block).digest()


async def test_error_of_the_body_comes_out_as_it_is() -> None:
    with pytest.raises(KeyError):  # noqa: PT012
        async with StreamHasher(["MD5"], SimulatedThreads()) as hasher:
            await hasher.update(bytes(MiB))
            raise KeyError
