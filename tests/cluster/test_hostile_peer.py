"""Hosts that mean harm at the cluster port: strangers, forgers, and one with a stolen key.

FAULTS F30 to F33, at three real nodes.  Meanwhile the cluster serves; afterwards everybody
is alive, nothing was learnt and nothing crashed.  Certificates that are expired, and what
cores do with each byte, is in unit and contract tests (docs/internals/hostile.md).
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import socket
import ssl
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import msgpack
import pytest

from objstore.gossip.messages import Dead, Left, Ping, Sealer, Suspect, encode_message
from objstore.host.network import TlsIdentity
from objstore.host.real_pki import RealPki
from objstore.host.real_tls import client_context
from objstore.ids import ClusterId, NodeId
from objstore.rpc.frames import FrameReader, Kind, encode_bare, encode_frame
from tests.cluster.raw import Raw
from tests.harness import Cluster, Node, running_cluster, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

B = "/peers"
PROTOCOL = 1
STRANGER = NodeId("ab" * 8)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: Any) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("peers")) as running:
        assert Raw.of(running).put(B).status == 200
        yield running
        check_logs(running)


@pytest.fixture(autouse=True)
def unharmed(cluster: Cluster) -> Iterator[None]:
    """Whatever a test does: the cluster serves at its end, and nobody is missed."""
    yield
    for number in range(3):
        body = os.urandom(100_000)
        assert Raw.of(cluster, number).put(f"{B}/k", body).status == 200
        assert Raw.of(cluster, (number + 1) % 3).get(f"{B}/k").body == body
    wait_until(
        lambda: [node["state"] for node in cluster.status()["nodes"]] == ["alive"] * 3,
        what="three nodes that are alive, and no other",
    )


def check_logs(cluster: Cluster) -> None:
    log = "".join(node.log.read_text() for node in cluster.nodes)
    for trouble in ("Traceback", '"level": "error"'):
        assert trouble not in log, [line for line in log.splitlines() if trouble in line]
    for node in cluster.nodes:
        kept = json.loads((node.data / "secrets.json").read_text())
        for secret in re.findall(r'"([^"]{24,})"', json.dumps(kept)):
            assert secret not in log
        assert kept["gossip_secret"].encode("latin-1").hex() not in log


def address(node: Node) -> tuple[str, int]:
    host, _, port = str(node.description["cluster"]).rpartition(":")
    return host, int(port)


def identity_of(node: Node) -> TlsIdentity:
    """Its certificate and key, as whoever steals its disk has them."""
    kept = json.loads((node.data / "secrets.json").read_text())
    return TlsIdentity(*(
        kept[name].encode() for name in ("certificate_pem", "private_key_pem", "authority_pem")
    ))  # fmt: skip


def cluster_id(cluster: Cluster) -> ClusterId:
    return ClusterId(
        json.loads((cluster.nodes[0].data / "node.json").read_text())["identity"]["cluster"]
    )


@attrs.define
class Link:
    """A TLS connection to a node's cluster port, spoken by hand."""

    stream: ssl.SSLSocket
    _reader: FrameReader = attrs.field(factory=FrameReader)

    @classmethod
    def to(cls, node: Node, identity: TlsIdentity | None = None) -> Link:
        context = client_context(identity, b"" if identity is None else identity.trust_pem)
        plain = socket.create_connection(address(node), timeout=15)
        return cls(context.wrap_socket(plain))

    def hello(self, cluster: ClusterId | None, node: NodeId | None) -> Kind:
        """Introduce oneself; the kind of what is answered."""
        frame = encode_frame(Kind.HELLO, parts=(PROTOCOL, cluster, node, b"boot"))
        self.stream.sendall(b"".join(map(bytes, frame)))
        return self.receive()[0].kind

    def receive(self) -> list[Any]:
        while True:
            data = self.stream.recv(65536)
            if not data:
                raise ConnectionResetError("closed")
            if frames := self._reader.feed(data):
                return frames

    def is_closed(self) -> bool:
        """Whether the node closes this connection, and says nothing to regret before."""
        with self.stream:
            try:
                while data := self.stream.recv(65536):
                    self._reader.feed(data)
            except TimeoutError:
                return False
            except OSError:
                pass
        return True


def frame(kind: int, header: bytes = b"", payload: bytes = b"", **changed: int) -> bytes:
    """A frame, with anything in its prefix changed."""
    values = {
        "version": 1, "kind": kind, "flags": 0,
        "header_size": len(header), "payload_size": len(payload), "call": 1,
    } | changed  # fmt: skip
    return struct.pack(">BBHIIQ", *values.values()) + header + payload


def metric(node: Node, name: str) -> float:
    text = node.get("/-/metrics")[1].decode()
    found = re.findall(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    return sum(map(float, found))


def resident_size(node: Node) -> int:
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{node.pid}/status").read_text())
    assert found is not None
    return int(found[1]) << 10


# ---- who is not let in: F30 -----------------------------------------------------------


def refuses(node: Node, identity: TlsIdentity) -> bool:
    """Whether a node ends the connection of one who shows this certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    own = client_context(identity, identity.trust_pem)
    own.verify_mode = ssl.CERT_NONE
    with socket.create_connection(address(node), timeout=15) as plain:
        try:
            with own.wrap_socket(plain) as stream:
                hello = encode_frame(Kind.HELLO, parts=(PROTOCOL, None, None, b"boot"))
                stream.sendall(b"".join(map(bytes, hello)))
                return stream.recv(1000) == b""
        except OSError:
            return True


def test_certificates_of_others_are_refused_f30(cluster: Cluster) -> None:
    """Another authority, though it names our cluster and our nodes."""
    pki, ours = RealPki(), cluster_id(cluster)
    now_ms = int(time.time() * 1000)
    foreign = pki.create_authority(ours, now_ms=now_ms, days=30)
    for node in cluster.nodes:
        for named in (node.id, cluster.nodes[0].id, "cd" * 8):
            forged = pki.issue(foreign, ours, NodeId(named), now_ms=now_ms, days=30)
            assert refuses(node, forged)
    # With a true certificate for a server, which is nobody's to introduce themselves by.
    server = pki.issue_server(foreign, ("localhost",), now_ms=now_ms, days=30)
    assert refuses(cluster.nodes[0], server)


def test_a_stolen_certificate_is_good_for_its_own_name_only_f30(cluster: Cluster) -> None:
    one, two, three = cluster.nodes
    ours = cluster_id(cluster)
    for named, of in (
        (NodeId(three.id), ours), (NodeId(one.id), ours), (STRANGER, ours), (None, ours),
        (NodeId(two.id), ClusterId("ef" * 16)), (NodeId(two.id), None),
    ):  # fmt: skip
        link = Link.to(one, identity_of(two))
        assert link.hello(of, named) is Kind.ERROR
        assert link.is_closed()
    # And a stranger, who shows none, is of this cluster by no word of theirs.
    for named, of in (
        (NodeId(two.id), ours),
        (NodeId(two.id), None),
        (None, ClusterId("ef" * 16)),
    ):
        link = Link.to(one)
        assert link.hello(of, named) is Kind.ERROR
        assert link.is_closed()


def start_joining(folder: Path, *, join: str, token: str) -> tuple[int, str]:
    """(exit code, what it said) of a daemon that tries to join."""
    folder.mkdir()
    config = folder / "node.toml"
    config.write_text(
        f'[node]\ndata = "{folder / "data"}"\n[s3]\naddress = "127.0.0.1:0"\n'
        '[cluster]\naddress = "127.0.0.1:0"\n'
    )
    done = subprocess.run(
        [sys.executable, "-m", "objstore", "serve", "--config", str(config),
         "--join", join, "--token", token],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    return done.returncode, done.stderr


def test_an_expired_token_opens_nothing_and_is_not_written_down_f30(
    cluster: Cluster, tmp_path: Path
) -> None:
    token = cluster.command("node", "token", "--expires", "1s")
    time.sleep(1.5)
    code, said = start_joining(tmp_path / "late", join=token["join"], token=token["token"])
    assert code == 4, said
    secret = token["token"].rpartition(".")[2]
    assert secret not in said
    assert secret not in "".join(node.log.read_text() for node in cluster.nodes)


# ---- what strangers say: F32 ----------------------------------------------------------

DEEP = b"\x91" * 60_000 + b"\xc0"
GARBAGE = {
    "nothing of ours": random.Random(1).randbytes(4000),
    "zeros": bytes(4000),
    "ones": b"\xff" * 4000,
    "another version": frame(Kind.HELLO, version=2),
    "no such kind": frame(99),
    "kind zero": frame(0),
    "unknown flags": frame(Kind.HELLO, flags=0xFFFF),
    "a header without end": frame(Kind.HELLO, header_size=0xFFFFFFFF),
    "a payload without end": frame(Kind.HELLO, payload_size=0xFFFFFFFF),
    "both without end": frame(Kind.HELLO, header_size=0x80000000, payload_size=0x80000000),
    "a hello of no size": frame(Kind.HELLO),
    "a hello that is no array": frame(Kind.HELLO, b"\xc0"),
    "a hello of too few": frame(Kind.HELLO, b"\x91\x01"),
    "a hello of odd things": frame(
        Kind.HELLO, msgpack.packb([1, 2.5, {"a": 1}, "x", None])
    ),
    "a hello of depth": frame(Kind.HELLO, DEEP),
    "a hello of a map that is not": frame(Kind.HELLO, b"\xdf\xff\xff\xff\xff"),
    "a hello of bytes that are not": frame(Kind.HELLO, b"\x95\x01\xc6\xff\xff\xff\xff"),
    "a request before hello": frame(Kind.REQUEST, msgpack.packb(["meta.propose", 1, None])),
    "a ping before hello": frame(Kind.PING),
    "an answer before hello": frame(Kind.RESPONSE, b"\x91\xc0"),
    "two hellos": frame(Kind.HELLO, msgpack.packb([1, None, None, b"b", None])) * 2,
}


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_instead_of_a_hello_ends_its_connection_f32(
    cluster: Cluster, name: str
) -> None:
    one, two, _ = cluster.nodes
    for identity in (None, identity_of(two)):
        link = Link.to(one, identity)
        with contextlib.suppress(OSError):
            link.stream.sendall(GARBAGE[name])
        assert link.is_closed()
    with socket.create_connection(address(one), timeout=15) as plain:  # And without TLS.
        with contextlib.suppress(OSError):
            plain.sendall(GARBAGE[name])
            assert b"Traceback" not in plain.recv(1000)


def _call(
    method: Any, value: Any = None, *, timeout_ms: Any = 1000, call: int = 1
) -> bytes:
    return frame(Kind.REQUEST, msgpack.packb([method, timeout_ms, value]), call=call)


AFTER_HELLO = {
    "an unknown method": (_call("no.such.method"), False),
    "a method that is no text": (_call(7), False),
    "no time": (_call("cluster.join", timeout_ms=0), False),
    "time before the beginning": (_call("cluster.join", timeout_ms=-5), False),
    "time without end": (_call("cluster.join", timeout_ms=2**63), False),
    "time in words": (_call("cluster.join", timeout_ms="soon"), False),
    "nobody to join": (_call("cluster.join"), False),
    "a number to join": (_call("cluster.join", 2**63), False),
    "a list to join": (_call("cluster.join", [[[[]]]] * 100), False),
    "an odd one to join": (
        _call("cluster.join", {"token": "x", "node": b"\xff" * 99}),
        False,
    ),
    "depth": (frame(Kind.REQUEST, b"\x93\xa1x\x01" + DEEP), True),
    "a header that is cut": (frame(Kind.REQUEST, b"\x93\xa1x"), True),
    "a call used twice": (_call("cluster.authority") + _call("cluster.authority"), False),
    "a long value of no size": (frame(Kind.REQUEST, b"\x93\xa1x\x01\x05", flags=2), True),
    "a long value below nothing": (
        frame(Kind.REQUEST, b"\x93\xa1x\x01\xff", flags=2),
        True,
    ),
    "an answer to nobody": (frame(Kind.RESPONSE, b"\x91\xc0"), True),
    "an error for nobody": (frame(Kind.ERROR, b"\x91\xc0"), True),
    "hello again": (frame(Kind.HELLO, msgpack.packb([1, None, None, b"b", None])), True),
    "a cast": (frame(Kind.CAST, msgpack.packb(["raft.messages", None])), True),
    "a call taken back that never was": (encode_bare(Kind.CANCEL, call=77), False),
    "a frame for a member": (frame(Kind.REQUEST, payload_size=100_000), True),
}


@pytest.mark.parametrize("name", AFTER_HELLO)
def test_what_a_stranger_says_after_hello_does_no_harm_f32(
    cluster: Cluster, name: str
) -> None:
    data, is_fatal = AFTER_HELLO[name]
    link = Link.to(cluster.nodes[0])
    assert link.hello(None, None) is Kind.HELLO
    with contextlib.suppress(OSError):
        link.stream.sendall(data)
        link.stream.sendall(encode_bare(Kind.PING, call=1))
    if is_fatal:
        assert link.is_closed()
        return
    with link.stream, contextlib.suppress(OSError):  # Answered, or ended.
        for found in link.receive():
            assert found.kind in {Kind.ERROR, Kind.RESPONSE, Kind.PING}
            if found.kind is Kind.RESPONSE:
                assert "twice" in name


METHODS = ["raft.call", "meta.propose", "meta.query", "meta.changes", "meta.chains",
           "chunks.put", "chunks.read", "chunks.delete", "chunks.stat", "chunks.begin",
           "chunks.record", "chunks.delete_record",
           "node.report", "node.left", "gossip.push_pull"]  # fmt: skip


def test_strangers_may_ask_for_nothing_that_members_do_f30(cluster: Cluster) -> None:
    link = Link.to(cluster.nodes[1])
    assert link.hello(None, None) is Kind.HELLO
    for number, method in enumerate(METHODS):
        link.stream.sendall(_call(method, [], call=number + 1))
        for found in link.receive():
            assert (found.kind, found.call) == (Kind.ERROR, number + 1)
            assert b"no such method" in bytes(found.header)
    link.stream.close()


def test_a_flood_that_nobody_reads_is_ended_f32(cluster: Cluster) -> None:
    node = cluster.nodes[0]
    before = resident_size(node)
    for flood in (encode_bare(Kind.PING, call=1), _call("no.such.method")):
        link = Link.to(node)
        link.hello(None, None)
        link.stream.settimeout(5)
        with contextlib.suppress(OSError):
            for _ in range(400):
                link.stream.sendall(flood * 2000)
        link.stream.close()
    assert resident_size(node) < before + (64 << 20)


@pytest.mark.parametrize("count", [600, pytest.param(5000, marks=pytest.mark.full)])
def test_thousands_who_begin_and_never_end_keep_no_peer_out_f32(
    cluster: Cluster, count: int
) -> None:
    """Silent, half a TLS hello, half a frame: strangers are few, the rest is ended."""
    one, two, _ = cluster.nodes
    before = resident_size(one)
    begun = [b"", b"\x16\x03\x01\x02\x00", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"]
    crowd: list[socket.socket] = []
    try:
        for number in range(count):
            plain = socket.create_connection(address(one), timeout=15)
            with contextlib.suppress(OSError):
                plain.sendall(begun[number % len(begun)])
            crowd.append(plain)
            if number % 200 == 0:  # A member is let in all the same.
                link = Link.to(one, identity_of(two))
                assert link.hello(cluster_id(cluster), NodeId(two.id)) is Kind.HELLO
                link.stream.sendall(frame(Kind.REQUEST, payload_size=3_000_000) + b"half")
                crowd.append(link.stream)
                body = os.urandom(50_000)
                assert Raw.of(cluster).put(f"{B}/among", body).status == 200
                assert Raw.of(cluster, 1).get(f"{B}/among").body == body
        assert resident_size(one) < before + (count << 20) // 8
        assert len(os.listdir(f"/proc/{one.pid}/fd")) < 600
    finally:
        for plain in crowd:
            plain.close()


MAD = {
    "a payload without end": frame(Kind.REQUEST, payload_size=0x7FFFFFFF),
    "a payload too long": frame(Kind.REQUEST, payload_size=5 << 20),
    "a header too long": frame(Kind.REQUEST, header_size=70_000),
    "depth": frame(Kind.REQUEST, b"\x93\xa1x\x01" + DEEP),
    "a header that is cut": frame(Kind.REQUEST, b"\x93\xa1x"),
    "a long value of no size": frame(Kind.REQUEST, b"\x93\xa1x\x01\x05", flags=2),
    "a cast that is cut": frame(Kind.CAST, b"\x92\xa1x"),
    "an answer to nobody": frame(Kind.RESPONSE, b"\x91\xc0"),
    "hello again": frame(Kind.HELLO, msgpack.packb([1, None, None, b"b", None])),
    "noise": random.Random(2).randbytes(100_000),
}


@pytest.mark.parametrize("name", MAD)
def test_a_member_gone_mad_is_ended_f32(cluster: Cluster, name: str) -> None:
    """Frames of no sense, from one whom a true certificate lets in."""
    one, two, _ = cluster.nodes
    before = resident_size(one)
    link = Link.to(one, identity_of(two))
    assert link.hello(cluster_id(cluster), NodeId(two.id)) is Kind.HELLO
    with contextlib.suppress(OSError):
        link.stream.sendall(frame(Kind.CAST, b"\x92\xa1x\xc0", bytes(3 << 20)))  # In order.
        link.stream.sendall(MAD[name])
    assert link.is_closed()
    assert resident_size(one) < before + (64 << 20)


# ---- gossip: F31, F33 -----------------------------------------------------------------


def dropped(node: Node, reason: str) -> float:
    return metric(node, f'objstore_gossip_dropped_packets_total{{reason="{reason}"}}')


@pytest.fixture
def packets() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as endpoint:
        endpoint.settimeout(0.7)
        yield endpoint


def is_silent(endpoint: socket.socket) -> bool:
    try:
        endpoint.recv(4096)
    except TimeoutError:
        return True
    return False


def test_packets_of_who_lacks_the_secret_are_dropped_without_an_answer_f33(
    cluster: Cluster, packets: socket.socket
) -> None:
    one, two, three = cluster.nodes
    before = dropped(one, "not_authentic")
    chance = random.Random(3)
    forger = Sealer(b"guessed" * 5, NodeId(two.id))
    news = [
        Dead(NodeId(three.id), 2**40, NodeId(two.id)),
        Left(NodeId(three.id), 2**40),
        Suspect(NodeId(one.id), 2**40, NodeId(two.id)),
        Ping(7),
    ]
    sent = [forger.seal(NodeId(one.id), 2**62 + n, [encode_message(it)])
            for n, it in enumerate(news)]  # fmt: skip
    sent += [
        chance.randbytes(size) for size in (1, 40, 41, 42, 300, 1400, 1401, 9000, 60_000)
    ]
    sent += [b"", bytes(1400), b"\x01" + bytes(40), b"\x01" * 1400]
    for packet in sent:
        packets.sendto(packet, address(one))
    assert is_silent(packets)
    wait_until(
        lambda: dropped(one, "not_authentic") >= before + len(sent) - 1, what="count"
    )
    assert one.is_running()


def test_a_packet_that_was_listened_in_on_is_of_no_second_use_f31(cluster: Cluster) -> None:
    """Sent again: at once, later, and to another node."""
    try:
        tap = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
        tap.bind(("lo", 0))
    except PermissionError:
        pytest.skip("listening in needs root")
    one, _, three = cluster.nodes
    captured: list[bytes] = []
    with tap:
        tap.settimeout(30)
        while len(captured) < 5:
            data = tap.recv(65536)
            ports = struct.unpack_from(">HH", data, 20)
            if data[9] == socket.IPPROTO_UDP and ports[1] == address(one)[1]:
                captured.append(data[28:])
    before, foreign = dropped(one, "replayed"), dropped(three, "not_authentic")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as endpoint:
        endpoint.settimeout(0.7)
        for pause in (0.0, 1.0):
            time.sleep(pause)
            for packet in captured:
                endpoint.sendto(packet, address(one))
                endpoint.sendto(packet, address(three))
        assert is_silent(endpoint)
    wait_until(
        lambda: dropped(one, "replayed") >= before + 10, what="replays to be counted"
    )
    assert dropped(three, "not_authentic") >= foreign + 10


def test_who_stole_the_secret_gets_no_amplifier_f33(
    cluster: Cluster, packets: socket.socket
) -> None:
    one = cluster.nodes[0]
    kept = json.loads((one.data / "secrets.json").read_text())
    thief = Sealer(kept["gossip_secret"].encode("latin-1"), STRANGER)
    for number in range(20):
        request = thief.seal(NodeId(one.id), 2**50 + number, [encode_message(Ping(number))])
        packets.sendto(request, address(one))
        answered = 0
        with contextlib.suppress(TimeoutError):
            packets.settimeout(0.05)
            while True:
                answered += len(packets.recv(4096))
        assert answered <= 3 * len(request)
    # What makes no sense under the right secret is dropped and counted.
    before = dropped(one, "malformed")
    for number, message in enumerate([b"\xc1", b"\x91" * 1000, b"\x92\x05\x05", b"\xff"]):
        packets.sendto(thief.seal(NodeId(one.id), 2**51 + number, [message]), address(one))
    wait_until(lambda: dropped(one, "malformed") > before, what="nonsense to be counted")
    assert str(STRANGER) not in json.dumps(cluster.status())
