"""F49, F15: a node's certificate is renewed in time, whatever its clock did meanwhile."""

from __future__ import annotations

import pytest

from objstore.admin.settings import AUTHORITY_DAYS, CERTIFICATE_DAYS
from objstore.ids import ClusterId, NodeId
from objstore.node.certificates import NodeCertificate
from objstore.node.identity import Identity, IdentityState, Secrets, open_data_folder
from objstore.testing.host import SimulatedWorld

NODE, CLUSTER = NodeId("0123456789abcdef"), ClusterId("c" * 32)
DAY_MS = 86_400_000


class Renewing:
    """A node's folder and certificate, and the clock that it goes by."""

    def __init__(self) -> None:
        world = SimulatedWorld(1)
        self.host = world.host("a")
        self.clock = world.clock("a")
        now_ms = self.host.clock.utc_now_ms()
        self.authority = self.host.pki.create_authority(
            CLUSTER, now_ms=now_ms, days=AUTHORITY_DAYS
        )
        tls = self.host.pki.issue(
            self.authority, CLUSTER, NODE, now_ms=now_ms, days=CERTIFICATE_DAYS
        )
        folder = open_data_folder(self.host.disks, "/data")
        pems = (tls.certificate_pem, tls.private_key_pem)
        folder.save_secrets(
            Secrets(self.authority.certificate_pem, *pems, b"s" * 32, "token")
        )
        identity = Identity(NODE, CLUSTER, IdentityState.MEMBER)
        self.certificate = NodeCertificate.load(folder, identity, self.host)
        self.folder = folder

    def days_left(self) -> float:
        pem = self.certificate.get().certificate_pem
        left_ms = self.host.pki.expires_ms(pem) - self.host.clock.utc_now_ms()
        return left_ms / DAY_MS

    def look(self) -> None:
        self.certificate._renew_if_due(lambda: self.authority)
        assert self.folder.load_secrets().tls_identity() == self.certificate.get()


@pytest.fixture
async def node(autojump_clock: object) -> Renewing:
    return Renewing()


async def test_it_is_renewed_once_a_third_of_its_life_is_left(node: Renewing) -> None:
    node.clock.jump((CERTIFICATE_DAYS * 2 // 3 - 1) * DAY_MS)
    before = node.certificate.get()
    node.look()
    assert node.certificate.get() == before
    node.clock.jump(2 * DAY_MS)
    node.look()
    assert round(node.days_left()) == CERTIFICATE_DAYS


async def test_one_made_while_the_clock_was_ahead_is_made_again(node: Renewing) -> None:
    node.clock.jump(365 * DAY_MS)
    node.look()
    node.clock.jump(-365 * DAY_MS)
    assert node.days_left() > CERTIFICATE_DAYS
    node.look()
    assert round(node.days_left()) == CERTIFICATE_DAYS
