"""The composition root: builds every part of one node, starts them bottom up.

    start   folder -> identity -> rpc -> raft -> meta -> chunks -> objects -> front door
    stop    front door drains -> leadership goes to others -> gossip says goodbye -> the rest

This is the only place that knows who implements what.  Any part that raises ends the
process (crash-only); what it had promised is on disk.
"""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import structlog
import trio

from objstore import log as logging
from objstore import metrics
from objstore.admin.app import PREFIX, AdminApp
from objstore.admin.membership import Membership
from objstore.admin.status import ClusterStatus, NodeReporter
from objstore.chunks.client import ChunkClient
from objstore.chunks.store import ChunkStore
from objstore.config import Config
from objstore.errors import ConfigError
from objstore.gossip.driver import Gossip
from objstore.host.host import Host
from objstore.host.kv import KeyValueStore
from objstore.host.network import Address, ServerTls
from objstore.http.message import Request, Response
from objstore.http.server import HttpServer
from objstore.ids import NodeId
from objstore.meta.client import MetaClient
from objstore.meta.reconcile import Reconciler
from objstore.meta.server import MetaServer
from objstore.meta.store import MetaStore
from objstore.meta.view import ClusterView
from objstore.node.certificates import FrontDoorTls, NodeCertificate
from objstore.node.identity import DataFolder, Identity, IdentityState, open_data_folder
from objstore.node.joining import (
    drive_paths,
    founding_command,
    join,
    prepare_founding,
    weight_of,
)
from objstore.objects.store import Store
from objstore.raft.driver import RaftHost
from objstore.raft.wal import Wal
from objstore.rpc.client import Peers
from objstore.rpc.server import Call, Reply, RpcServer
from objstore.s3.app import S3App

log = structlog.get_logger()

_STOP_TIMEOUT_S = 15.0
