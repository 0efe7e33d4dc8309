"""How a node comes to be: it founds a cluster, or joins one.

Both end with a folder that holds an identity and the cluster's secrets; the daemon then
starts alike.  Both can be cut off at any point and begun again: a founder's identity
stays FOUNDING until its first entry is applied, a joining node keeps its id, and the
cluster answers the same id again.
"""

from __future__ import annotations

from typing import Any

import structlog
import trio

from objstore.admin import settings
from objstore.admin.app import new_access_key
from objstore.admin.tokens import Token
from objstore.config import Config
from objstore.errors import ConfigError, InvalidRequest, ObjstoreError, Unavailable
from objstore.host.host import Host
from objstore.host.network import Address, ClientTls
from objstore.ids import ClusterId, NodeId
from objstore.meta import cluster
from objstore.meta.commands import FoundCluster
from objstore.meta.envelope import FEATURE_LEVEL
from objstore.meta.values import AccessKey
from objstore.node.identity import (
    DataFolder,
    Identity,
    IdentityState,
    Secrets,
    open_data_folder,
)
from objstore.ring.layout import Member, encode, found
from objstore.rpc.client import call_address
from objstore.units import GiB

log = structlog.get_logger()

_JOIN_TRIES = 10
_JOIN_TIMEOUT_MS = 15_000
_JOIN_PAUSE_S = 0.5
_WEIGHT_MAX_GIB = 1 << 30


async def join_folder(config: Config, host: Host) -> Identity:
    """Let the folder of `config` join, without starting its daemon.  Raises ConfigError."""
    folder = open_data_folder(host.disks, config.node.data)
    try:
        if folder.identity is not None and folder.identity.state is IdentityState.MEMBER:
            raise ConfigError(f"{config.node.data} is a member of a cluster already")
        return await join(folder, config, host)
    finally:
        folder.close()


# ---- founding -------------------------------------------------------------------------


def prepare_founding(folder: DataFolder, config: Config, host: Host) -> Identity:
    """Make a cluster id, its CA, root key and admin token; nothing is replicated yet."""
    node = NodeId(host.entropy.token(8).hex())
    cluster = ClusterId(host.entropy.token(16).hex())
    now_ms = host.clock.utc_now_ms()
    authority = host.pki.create_authority(
        cluster, now_ms=now_ms, days=settings.AUTHORITY_DAYS
    )
    tls = host.pki.issue(
        authority, cluster, node, now_ms=now_ms, days=settings.CERTIFICATE_DAYS
    )
    root = _root_key(config, host)
    secrets = Secrets(
        authority_pem=authority.certificate_pem,
        certificate_pem=tls.certificate_pem,
        private_key_pem=tls.private_key_pem,
        gossip_secret=host.entropy.token(32),
        admin_token=host.entropy.token(24).hex(),
        root_access_key=root.access_key,
        root_secret_key=root.secret_key,
    )
    folder.save_secrets(secrets)
    # The CA's private key is replicated with the cluster; until then it waits here.
    folder.save_authority_key(authority.private_key_pem)
    identity = Identity(node, cluster, IdentityState.FOUNDING)
    folder.save(identity)
    return identity


def founding_command(
    folder: DataFolder, config: Config, host: Host, *, weight: int
) -> FoundCluster:
    """The first command of the cluster, from what `prepare_founding` saved."""
    identity, secrets = folder.identity, folder.load_secrets()
    assert identity is not None
    member = member_of(identity.node, config, weight=weight)
    root = AccessKey(
        access_key=secrets.root_access_key,
        secret_key=secrets.root_secret_key,
        name="root",
        canonical_id=new_access_key(
            host.entropy, host.clock, name="root", is_root=True
        ).canonical_id,
        is_root=True,
        created_ms=host.clock.utc_now_ms(),
    )
    return FoundCluster(
        layout=encode(found([member])),
        settings=(
            (settings.CLUSTER_ID, identity.cluster.encode()),
            (settings.AUTHORITY_CERTIFICATE, secrets.authority_pem),
            (settings.AUTHORITY_KEY, folder.load_authority_key()),
            (settings.GOSSIP_SECRET, secrets.gossip_secret),
            (settings.ADMIN_TOKEN, secrets.admin_token.encode()),
            (cluster.FEATURE_LEVEL, b"%d" % FEATURE_LEVEL),
        ),
        root_key=root,
    )


def _root_key(config: Config, host: Host) -> AccessKey:
    made = new_access_key(host.entropy, host.clock, name="root", is_root=True)
    given = (config.auth.root_access_key, config.auth.root_secret_key)
    if not any(given):
        return made
    if not all(given) or len(given[0]) < 3 or len(given[1]) < 8:
        raise ConfigError(
            "auth.root_access_key (3 characters or more) and auth.root_secret_key (8 or"
            " more) go together. hint: give both, or neither and they are made"
        )
    return AccessKey(
        given[0], given[1], made.name, made.canonical_id, is_root=True, created_ms=0
    )


# ---- joining --------------------------------------------------------------------------


async def join(folder: DataFolder, config: Config, host: Host) -> Identity:
    """Ask the nodes at `cluster.join` to let this folder's node in.

    Raises ConfigError where the token or the cluster is wrong, Unavailable where nobody
    answers.  If cancelled, the same folder may ask again.
    """
    token = _token(config)
    identity = folder.identity
    if identity is None:
        node = NodeId(host.entropy.token(8).hex())
        identity = Identity(node, ClusterId(""), IdentityState.JOINING)
        folder.save(identity)
    addresses = [Address.parse(text) for text in config.cluster.join]
    problem: ObjstoreError | OSError | None = None
    for attempt in range(_JOIN_TRIES):
        address = addresses[attempt % len(addresses)]
        try:
            answer = await _ask(address, token, identity.node, config, host)
        except InvalidRequest as error:
            raise ConfigError(f"{address} does not let this node in: {error}") from error
        except (ObjstoreError, OSError, trio.BrokenResourceError) as error:
            if isinstance(error, ConfigError):
                raise
            problem = error if isinstance(error, ObjstoreError | OSError) else None
            log.warning("node.join_failed", address=str(address), reason=str(error))
            await trio.sleep(_JOIN_PAUSE_S)
            continue
        return _admitted(folder, identity, answer)
    raise Unavailable(
        f"no node at {', '.join(config.cluster.join)} let this one in: {problem}."
        " hint: is this the cluster address (not the S3 one) of a running node?"
    )


async def _ask(
    address: Address, token: Token, node: NodeId, config: Config, host: Host
) -> dict[str, Any]:
    first = await call_address(
        host.network,
        address,
        ClientTls(identity=None),
        "cluster.authority",
        None,
        timeout_ms=_JOIN_TIMEOUT_MS,
    )
    authority_pem = first.value["authority_pem"]
    if host.pki.fingerprint(authority_pem) != token.fingerprint:
        raise ConfigError(
            f"the cluster at {address} is not the one that made this token."
            ' hint: make a token there with "objstore node token"'
        )
    member = member_of(node, config, weight=weight_of(config, host))
    reply = await call_address(
        host.network,
        address,
        ClientTls(identity=None, trust_pem=authority_pem),
        "cluster.join",
        {
            "token": str(token),
            "node": member.node,
            "weight": member.weight,
            "zone": member.zone,
            "rack": member.rack,
            "host": member.host,
            "cluster_address": member.cluster_address,
            "s3_address": member.s3_address,
        },
        timeout_ms=_JOIN_TIMEOUT_MS,
    )
    answer = reply.value
    assert isinstance(answer, dict)
    return answer


def _admitted(folder: DataFolder, identity: Identity, answer: dict[str, Any]) -> Identity:
    access_key, secret_key = answer["root_key"]
    folder.save_secrets(
        Secrets(
            authority_pem=answer["authority_pem"],
            certificate_pem=answer["certificate_pem"],
            private_key_pem=answer["private_key_pem"],
            gossip_secret=answer["gossip_secret"],
            admin_token=answer["admin_token"],
            root_access_key=access_key,
            root_secret_key=secret_key,
            seeds=tuple(answer["seeds"]),
        )
    )
    # Where to find the others, before the first state is pulled.
    folder.save_first_layout(answer["layout"])
    # Last: with it the join is over, and all that belongs to it is there.
    member = Identity(identity.node, ClusterId(answer["cluster"]), IdentityState.MEMBER)
    folder.save(member)
    return member


def _token(config: Config) -> Token:
    try:
        return Token.parse(config.cluster.token)
    except InvalidRequest as error:
        raise ConfigError(f"cluster.token: {error}") from error


# ---- this node as a member ------------------------------------------------------------


def member_of(node: NodeId, config: Config, *, weight: int) -> Member:
    """This node as its layout's member."""
    s3_address = config.s3.advertise or config.s3.address
    return Member(
        node=node,
        weight=weight,
        zone=config.node.zone,
        rack=config.node.rack,
        host=config.node.host or node,
        cluster_address=config.cluster.advertise or config.cluster.address,
        s3_address=f"{'http' if config.s3.tls == 'off' else 'https'}://{s3_address}",
        state="active",
        joined=0,
    )


def weight_of(config: Config, host: Host) -> int:
    """node.weight, or the size of the drives in GiB (at least 1)."""
    if config.node.weight:
        return config.node.weight
    total = sum(
        host.disks.directory(path, create=True).space().total
        for path in drive_paths(config)
    )
    return max(1, min(total // GiB, _WEIGHT_MAX_GIB))


def drive_paths(config: Config) -> tuple[str, ...]:
    return config.node.drives or (f"{config.node.data}/chunks",)
