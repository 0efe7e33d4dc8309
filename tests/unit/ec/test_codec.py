"""Codecs: any k fragments give the block back, to the byte."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from objstore.buffer import Buffer
from objstore.ec.codec import NotEnoughFragments, codec_for
from objstore.ec.scheme import Scheme
from objstore.errors import CorruptData

SMALL = ["replicate:1", "replicate:3", "ec:2+1", "ec:2+2", "ec:3+2", "ec:4+2", "ec:5+3"]
ODD_SIZES = [0, 1, 2, 3, 4, 5, 7, 16, 31, 100, 4095, 4096, 4097]


def data_of(size: int) -> bytes:
    return hashlib.shake_256(b"objstore").digest(size)


def without(payloads: Sequence[Buffer], lost: Sequence[int]) -> list[Buffer | None]:
    return [None if number in lost else payload for number, payload in enumerate(payloads)]


@pytest.mark.parametrize("text", SMALL)
@pytest.mark.parametrize("size", ODD_SIZES)
def test_every_loss_of_up_to_m_fragments_decodes(text: str, size: int) -> None:
    scheme = Scheme.parse(text)
    codec = codec_for(scheme)
    block = data_of(size)
    payloads = codec.encode(block)
    assert len(payloads) == scheme.width
    assert {len(payload) for payload in payloads} == {scheme.fragment_size(size)}
    for count in range(scheme.m + 1):
        for lost in combinations(range(scheme.width), count):
            assert bytes(codec.decode(without(payloads, lost), size)) == block


@pytest.mark.parametrize("text", SMALL)
def test_every_lost_fragment_is_rebuilt_to_the_byte(text: str) -> None:
    scheme = Scheme.parse(text)
    codec = codec_for(scheme)
    payloads = codec.encode(data_of(1001))
    for count in range(1, scheme.m + 1):
        for lost in combinations(range(scheme.width), count):
            rebuilt = codec.rebuild(without(payloads, lost), lost, 1001)
            assert [bytes(p) for p in rebuilt] == [bytes(payloads[n]) for n in lost]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_wide_schemes_survive_any_m_losses(data: st.DataObject) -> None:
    k = data.draw(st.integers(2, 28))
    scheme = Scheme(k, data.draw(st.integers(1, min(8, 32 - k))))
    block = data.draw(st.binary(max_size=300))
    codec = codec_for(scheme)
    payloads = codec.encode(block)
    lost = data.draw(st.sets(st.integers(0, scheme.width - 1), max_size=scheme.m))
    holed = without(payloads, sorted(lost))
    assert bytes(codec.decode(holed, len(block))) == block
    wanted = data.draw(st.permutations(range(scheme.width)))
    rebuilt = codec.rebuild(holed, wanted, len(block))
    assert [bytes(p) for p in rebuilt] == [bytes(payloads[n]) for n in wanted]


@pytest.mark.parametrize("size", ODD_SIZES)
def test_data_fragments_are_the_data(size: int) -> None:
    codec = codec_for(Scheme(4, 2))
    block = data_of(size)
    joined = b"".join(codec.encode(block)[:4])
    assert joined[:size] == block
    assert not any(joined[size:])


def test_copies_are_the_block_itself() -> None:
    codec = codec_for(Scheme(1, 2))
    block = data_of(100)
    payloads = codec.encode(block)
    assert all(payload is block for payload in payloads)
    assert codec.decode([None, block, None], 100) is block


def test_memory_views_are_taken_as_they_come() -> None:
    for text in ("replicate:2", "ec:3+2"):
        codec = codec_for(Scheme.parse(text))
        view = memoryview(bytearray(data_of(1000)))[10:910]
        payloads = [memoryview(bytes(payload)) for payload in codec.encode(view)]
        assert bytes(codec.decode([None, *payloads[1:]], 900)) == bytes(view)


@pytest.mark.parametrize("text", SMALL)
def test_too_few_fragments_say_how_many_there_are(text: str) -> None:
    scheme = Scheme.parse(text)
    codec = codec_for(scheme)
    payloads = codec.encode(data_of(100))
    holed = without(payloads, range(scheme.m + 1))
    for attempt in (
        lambda: codec.decode(holed, 100),
        lambda: codec.rebuild(holed, [0], 100),
    ):
        with pytest.raises(NotEnoughFragments) as caught:
            attempt()
        assert (caught.value.needed, caught.value.found) == (scheme.k, scheme.k - 1)


@pytest.mark.parametrize("text", ["replicate:3", "ec:4+2"])
def test_fragment_of_a_wrong_size_is_corrupt(text: str) -> None:
    codec = codec_for(Scheme.parse(text))
    payloads = [bytes(payload) for payload in codec.encode(data_of(100))]
    with pytest.raises(CorruptData):
        codec.decode([payloads[0][:-1], *payloads[1:]], 100)


def test_stored_bytes_never_change() -> None:
    """A payload written by any release must decode with every later one."""
    payloads = codec_for(Scheme(4, 2)).encode(bytes(range(10)))
    assert [bytes(p).hex() for p in payloads] == GOLDEN_4_2


GOLDEN_4_2 = ["000102", "030405", "060708", "090000", "f69a78", "ffa7ac"]


def test_parity_is_cauchy_reed_solomon() -> None:
    """The document's arithmetic, done slowly, gives what the library gives."""
    for k, m in ((2, 1), (4, 2), (6, 3), (10, 4), (20, 12)):
        block = data_of(k * 8)
        payloads = codec_for(Scheme(k, m)).encode(block)
        for row in range(m):
            expected = bytearray(8)
            for column in range(k):
                factor = gf_inverse((k + row) ^ column)
                piece = block[column * 8 : column * 8 + 8]
                for place, byte in enumerate(piece):
                    expected[place] ^= gf_product(factor, byte)
            assert bytes(payloads[k + row]) == bytes(expected)


def gf_product(one: int, other: int) -> int:
    """In GF(2^8) by the polynomial 0x11d."""
    product = 0
    while other:
        if other & 1:
            product ^= one
        one <<= 1
        if one & 0x100:
            one ^= 0x11D
        other >>= 1
    return product


def gf_inverse(value: int) -> int:
    return next(other for other in range(1, 256) if gf_product(value, other) == 1)
