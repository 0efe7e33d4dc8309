"""All parts of one node, wired.

Each is built in `__init__`, from the bottom up, and given just what it needs; `run`
starts them in the same order and stops them in the reverse one.
"""

from __future__ import annotations

import os
from functools import partial

import attrs
import structlog
import trio

from objstore import metrics
from objstore.admin.app import PREFIX, AdminApp
from objstore.admin.membership import Membership
from objstore.admin.status import ClusterStatus, NodeReporter
from objstore.chunks.client import ChunkClient
from objstore.chunks.fragment import FragmentHeader
from objstore.chunks.server import ChunkServer
from objstore.chunks.store import ChunkStore
from objstore.config import Config
from objstore.errors import CorruptData, ObjstoreError
from objstore.gossip.driver import Gossip
from objstore.host.host import Host
from objstore.host.network import Address, ServerTls
from objstore.http.message import Request, Response
from objstore.http.server import HttpServer
from objstore.ids import CLUSTER_SHARD, FragmentId, NodeId
from objstore.meta.client import MetaClient
from objstore.meta.reconcile import Reconciler
from objstore.meta.server import MetaServer
from objstore.meta.store import MetaStore
from objstore.meta.view import ClusterView
from objstore.node.certificates import FrontDoorTls, NodeCertificate
from objstore.node.identity import DataFolder, Identity, IdentityState
from objstore.node.joining import drive_paths, founding_command, weight_of
from objstore.objects.store import Store
from objstore.raft.driver import RaftHost
from objstore.raft.wal import Wal
from objstore.rpc.client import Peers
from objstore.rpc.server import Call, Reply, RpcServer
from objstore.s3.app import S3App

log = structlog.get_logger()
