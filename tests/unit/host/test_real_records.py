"""Records behind a TLS handshake."""

from __future__ import annotations

import hmac
import ssl
from types import SimpleNamespace

import pytest
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.ciphers.aead import AESOCB3
from hypothesis import given, settings
from hypothesis import strategies as st

from objstore.host import real_records
from objstore.host.buffers import POOL
from objstore.host.real_records import OVERHEAD, RECORD_SIZE_MAX, Records

ONE, TWO = b"1" * 32, b"2" * 32
SIZES = [1, 100, RECORD_SIZE_MAX - 1, RECORD_SIZE_MAX, RECORD_SIZE_MAX + 1, 300_000]


def pair():
    client = Records(ours=ONE, theirs=TWO, server_side=False)
    return client, Records(ours=TWO, theirs=ONE, server_side=True)


def sent_by(end, *messages):
    """What goes over the wire, a message each."""
    wires = []
    for message in messages:
        end.write(message)
        wires.append(bytes(end.outgoing.read()))
    return wires


def read_into(end, size):
    """What is there, until more would have to come, into a buffer of so many bytes."""
    data, room = b"", bytearray(size)
    while True:
        try:
            data += room[: end.read(size, memoryview(room))]
        except ssl.SSLWantReadError:
            return data


def read_all(end):
    """What is there, until more would have to come."""
    data = b""
    while True:
        try:
            data += end.read(1 << 20)
        except ssl.SSLWantReadError:
            return data


@pytest.mark.parametrize("size", SIZES)
def test_bytes_arrive_both_ways(size):
    data = bytes(range(251)) * (size // 251 + 1)
    data = data[:size]
    for sender, receiver in (pair(), pair()[::-1]):
        assert sender.write(memoryview(bytearray(data))) == size
        assert sender.outgoing.pending == size + -(-size // RECORD_SIZE_MAX) * OVERHEAD
        receiver.incoming.write(sender.outgoing.read())
        assert not sender.outgoing.pending
        assert read_all(receiver) == data


@given(
    messages=st.lists(st.binary(max_size=300), max_size=8),
    cuts=st.lists(st.integers(1, 200), min_size=1),
    sizes=st.lists(st.integers(1, 400), min_size=1),
    in_place=st.booleans(),
)
def test_however_the_wire_is_cut_and_read_the_bytes_are_the_same(
    messages, cuts, sizes, in_place
):
    client, server = pair()
    wire = b"".join(sent_by(client, *messages))
    data, turn = b"", 0
    while wire:
        cut = cuts[turn % len(cuts)]
        server.incoming.write(wire[:cut])
        wire = wire[cut:]
        try:
            while True:
                size = sizes[turn % len(sizes)]
                turn += 1
                if in_place:
                    room = bytearray(b"?" * size)
                    filled = server.read(size, memoryview(room))
                    assert 0 < filled <= size
                    assert room[filled:] == b"?" * (size - filled)
                    data += room[:filled]
                else:
                    piece = server.read(size)
                    assert 0 < len(piece) <= size
                    data += piece
        except ssl.SSLWantReadError:
            turn += 1
    assert data == b"".join(messages)


@settings(max_examples=20)
@given(
    sizes=st.lists(st.sampled_from([1, 100, 70_000, *SIZES[2:]]), min_size=1, max_size=4),
    cuts=st.lists(st.integers(1, 300_000), min_size=1, max_size=8),
    in_room=st.lists(st.booleans(), min_size=1, max_size=8),
    size=st.sampled_from([0, 1000, RECORD_SIZE_MAX, 1 << 20]),
)
def test_bytes_that_come_where_they_are_decrypted_from_are_those_that_were_sent(
    sizes, cuts, in_room, size
):
    lent = POOL.lent_count
    client, server = pair()
    messages = [bytes((n + 1,)) * length for n, length in enumerate(sizes)]
    wire = memoryview(b"".join(sent_by(client, *messages)))
    incoming, data, turn = server.incoming, b"", 0
    while wire:
        cut = min(cuts[turn % len(cuts)], len(wire))
        if in_room[turn % len(in_room)]:
            room = incoming.room(incoming.missing or RECORD_SIZE_MAX + OVERHEAD)
            cut = min(cut, len(room))
            room[:cut] = wire[:cut]
            del room
            incoming.filled(cut)
        else:
            incoming.write(wire[:cut])
        wire, turn = wire[cut:], turn + 1
        data += read_into(server, size) if size else read_all(server)
    assert data == b"".join(messages)
    incoming.settle()
    assert POOL.lent_count == lent
    assert not incoming.pending
    assert not incoming.missing


def test_a_buffer_is_lent_while_large_records_come_and_no_longer():
    client, server = pair()
    (wire,) = sent_by(client, bytes(RECORD_SIZE_MAX))
    lent = POOL.lent_count
    room = server.incoming.room(len(wire))
    room[:] = wire
    server.incoming.filled(len(wire))
    del room
    assert POOL.lent_count == lent + 1
    assert len(server.read(RECORD_SIZE_MAX)) == RECORD_SIZE_MAX
    server.incoming.settle()
    assert POOL.lent_count == lent
    server.incoming.write(sent_by(client, b"small")[0])
    assert server.read(100) == b"small"


def test_what_is_sent_does_not_show():
    client, server = pair()
    data = b"a secret " * 20_000
    (wire,) = sent_by(client, data)
    assert b"secret" not in wire
    again, back = sent_by(client, data)[0], sent_by(server, data)[0]
    assert len({wire, again, back}) == 3  # Not even that it is the same.


@pytest.mark.parametrize("in_place", [True, False])
def test_a_bit_that_is_not_as_it_was_sent_ends_it(in_place):
    (wire,) = sent_by(pair()[0], b"hello")
    for offset in range(len(wire) * 8):
        forged = bytearray(wire)
        forged[offset // 8] ^= 1 << offset % 8
        _, server = pair()
        server.incoming.write(forged)
        server.incoming.write_eof()
        arguments = (100, memoryview(bytearray(100))) if in_place else (100,)
        with pytest.raises(ssl.SSLError) as caught:
            server.read(*arguments)
        assert not isinstance(caught.value, ssl.SSLWantReadError | ssl.SSLZeroReturnError)


def test_records_come_once_in_order_and_all_of_them():
    wires = sent_by(pair()[0], b"first", b"second", b"third")
    first, second, third = wires
    for order in ([second], [first, first], [first, third], [first, second, first]):
        _, server = pair()
        server.incoming.write(b"".join(order))
        with pytest.raises(ssl.SSLError, match="not genuine"):
            read_all(server)


@pytest.mark.parametrize("in_place", [True, False])
def test_what_is_behind_a_forged_record_is_not_read(in_place):
    """Who read the one before and goes on would not see the gap."""
    first, second, third = map(bytearray, sent_by(pair()[0], b"first", b"second", b"third"))
    second[-1] ^= 1
    _, server = pair()
    server.incoming.write(first + second + third)
    assert server.read(100) == b"first"
    arguments = (100, memoryview(bytearray(100))) if in_place else (100,)
    for _ in range(3):
        with pytest.raises(ssl.SSLError, match="not genuine"):
            server.read(*arguments)


def test_what_an_end_sent_is_not_taken_for_the_others():
    client, _ = pair()
    (wire,) = sent_by(client, b"pay")
    client.incoming.write(wire)
    with pytest.raises(ssl.SSLError, match="not genuine"):
        client.read(10)
    # Not even where somebody repeats the random bytes that an end has sent.
    echoed = Records(ours=ONE, theirs=ONE, server_side=False)
    (wire,) = sent_by(echoed, b"pay")
    echoed.incoming.write(wire)
    with pytest.raises(ssl.SSLError, match="not genuine"):
        echoed.read(10)


def test_other_random_bytes_of_either_end_are_other_keys():
    (wire,) = sent_by(pair()[0], b"hello")
    for ours, theirs in ((ONE, b"3" * 32), (b"3" * 32, TWO)):
        server = Records(ours=theirs, theirs=ours, server_side=True)
        server.incoming.write(wire)
        with pytest.raises(ssl.SSLError, match="not genuine"):
            server.read(10)


def test_the_end_of_a_direction_is_told_again_and_again():
    client, server = pair()
    client.write(b"last words")
    client.unwrap()
    server.incoming.write(client.outgoing.read())
    assert server.read(100) == b"last words"
    for _ in range(2):
        with pytest.raises(ssl.SSLZeroReturnError):
            server.read(100)
        with pytest.raises(ssl.SSLZeroReturnError):
            server.read(100, memoryview(bytearray(100)))
    (wire,) = sent_by(server, b"the other goes on")
    client.incoming.write(wire)
    assert client.read(100) == b"the other goes on"


@pytest.mark.parametrize("kept", [0, 3, 4, 20, 24])
def test_what_is_cut_off_is_no_end(kept):
    client, server = pair()
    (wire,) = sent_by(client, b"hello")
    server.incoming.write(wire[:kept])
    server.incoming.write_eof()
    with pytest.raises(ssl.SSLEOFError):
        server.read(100)


@pytest.mark.parametrize("size", [0, 15, RECORD_SIZE_MAX + 17, 0xFFFFFFFF])
def test_a_record_of_an_impossible_size_is_refused_before_it_has_come(size):
    _, server = pair()
    server.incoming.write(size.to_bytes(4, "big"))
    for _ in range(2):
        with pytest.raises(ssl.SSLError, match="impossible size"):
            server.read(100)


def test_nothing_is_no_record():
    client, _ = pair()
    assert client.write(b"") == 0
    assert client.outgoing.read() == b""


def test_a_key_is_used_for_so_many_records_only(monkeypatch):
    monkeypatch.setattr(real_records, "RECORDS_PER_KEY", 3)
    client, server = pair()
    ciphers = set()
    for number in range(10):
        message = b"message %d" % number
        (wire,) = sent_by(client, message)
        ciphers.add(client._sending.cipher)
        server.incoming.write(wire)
        assert server.read(100) == message
    assert len(ciphers) == 4


def test_a_record_is_what_the_format_says():
    """Made once more of nothing but HMAC and AES-OCB (RFC 5869, RFC 7253)."""
    client, _ = pair()
    wires = sent_by(client, b"hello", b"again")

    secret = hmac_sha256(bytes(32), ONE + TWO)
    of_client = hmac_sha256(secret, b"objstore-records/2\x01")
    key = hmac_sha256(of_client, b"objstore-records: key\x01")[:16]
    for number, (wire, message) in enumerate(zip(wires, (b"hello", b"again"), strict=True)):
        head = (len(message) + 16).to_bytes(4, "big")
        nonce = number.to_bytes(12, "big")
        assert wire == head + AESOCB3(key).encrypt(nonce, message, head)


def hmac_sha256(key, data):
    return hmac.digest(key, data, "sha256")


def unsupported(_):
    raise UnsupportedAlgorithm("no OCB here")


def wrong(_):
    return SimpleNamespace(encrypt=lambda *_: bytes(24))


def test_the_cipher_is_there_and_is_that_of_its_rfc(monkeypatch):
    assert real_records.is_supported()
    for cipher in (unsupported, wrong):
        monkeypatch.setattr(real_records, "AESOCB3", cipher)
        assert not real_records.is_supported()


def test_nothing_of_what_was_read_is_kept():
    client, server = pair()
    (wire,) = sent_by(client, bytes(RECORD_SIZE_MAX))
    server.incoming.write(wire)
    assert len(server.read(RECORD_SIZE_MAX - 1)) == RECORD_SIZE_MAX - 1
    assert len(server.read(100)) == 1
    assert not server._rest.obj
    server.incoming.settle()
    assert not server.incoming._bytes
