from __future__ import annotations

import attrs
import pytest
import trio

from objstore.host.pki import node_of_uri, node_uri
from objstore.ids import ClusterId, NodeId

CLUSTER, NODE = ClusterId("c" * 32), NodeId("a" * 16)
DAY_MS = 86_400_000
NOW_MS = 1_800_000_000_000


async def test_the_clock_counts_milliseconds_since_1970(host):
    now_ms = host.clock.utc_now_ms()
    assert isinstance(now_ms, int)
    assert 1_700_000_000_000 < now_ms < 4_000_000_000_000
    assert host.clock.utc_now_ms() >= now_ms


async def test_boot_time_does_not_go_back(host):
    first_ms = host.clock.boot_ms()
    await trio.sleep(0.01)
    assert isinstance(first_ms, int)
    assert host.clock.boot_ms() >= first_ms + 9


def test_tokens_have_their_size_and_differ(host):
    tokens = [host.entropy.token(16) for _ in range(100)]
    assert all(len(token) == 16 for token in tokens)
    assert len(set(tokens)) == 100
    assert host.entropy.token(0) == b""


def test_random_is_one_generator(host):
    assert host.entropy.random is host.entropy.random
    assert 0 <= host.entropy.random.random() < 1


@pytest.fixture
def authority(host):
    return host.pki.create_authority(CLUSTER, now_ms=NOW_MS, days=100)


def test_expiry_is_in_days_from_now(host, authority):
    identity = host.pki.issue(authority, CLUSTER, NODE, now_ms=NOW_MS, days=30)
    assert host.pki.expires_ms(authority.certificate_pem) == NOW_MS + 100 * DAY_MS
    assert host.pki.expires_ms(identity.certificate_pem) == NOW_MS + 30 * DAY_MS


def test_no_certificate_outlives_its_authority(host, authority):
    node = host.pki.issue(authority, CLUSTER, NODE, now_ms=NOW_MS, days=1000)
    server = host.pki.issue_server(authority, ("s3.test",), now_ms=NOW_MS, days=1000)
    for identity in (node, server):
        assert host.pki.expires_ms(identity.certificate_pem) == NOW_MS + 100 * DAY_MS


def test_an_identity_trusts_its_authority(host, authority):
    identity = host.pki.issue(authority, CLUSTER, NODE, now_ms=NOW_MS, days=30)
    assert identity.trust_pem == authority.certificate_pem


def test_fingerprints_are_sha256_and_tell_authorities_apart(host, authority):
    other = host.pki.create_authority(CLUSTER, now_ms=NOW_MS, days=100)
    one = host.pki.fingerprint(authority.certificate_pem)
    assert len(bytes.fromhex(one)) == 32
    assert one == host.pki.fingerprint(authority.certificate_pem)
    assert one != host.pki.fingerprint(other.certificate_pem)


def test_the_same_node_gets_a_new_key_each_time(host, authority):
    first = host.pki.issue(authority, CLUSTER, NODE, now_ms=NOW_MS, days=30)
    second = host.pki.issue(authority, CLUSTER, NODE, now_ms=NOW_MS, days=30)
    assert first.private_key_pem != second.private_key_pem


def test_a_certificate_and_the_key_of_another_are_told_apart(host, authority):
    first = host.pki.issue(authority, CLUSTER, NODE, now_ms=NOW_MS, days=30)
    second = host.pki.issue_server(authority, ("s3.test",), now_ms=NOW_MS, days=30)
    host.pki.check_identity(first)
    host.pki.check_identity(second)
    for wrong in (
        attrs.evolve(first, private_key_pem=second.private_key_pem),
        attrs.evolve(first, private_key_pem=b"no key"),
        attrs.evolve(first, certificate_pem=b"no certificate"),
        attrs.evolve(first, certificate_pem=b""),
    ):
        with pytest.raises(ValueError):
            host.pki.check_identity(wrong)


def test_private_keys_are_not_shown(host, authority):
    identity = host.pki.issue(authority, CLUSTER, NODE, now_ms=NOW_MS, days=30)
    assert "KEY" not in repr(authority)
    assert "KEY" not in repr(identity)


@attrs.frozen
class Uri:
    text: str
    node: NodeId | None


@pytest.mark.parametrize(
    "uri",
    [
        Uri(node_uri(CLUSTER, NODE), NODE),
        Uri(f"http://{CLUSTER}/{NODE}", None),
        Uri(f"objstore://{CLUSTER}", None),
        Uri(f"objstore:///{NODE}", None),
        Uri(f"objstore://{CLUSTER}/{NODE}/more", None),
        Uri(f"objstore://{CLUSTER}/ROOT", None),
        Uri("", None),
    ],
)
def test_a_node_is_read_from_its_uri_alone(uri):
    assert node_of_uri(uri.text) == uri.node
