"""Bugs that a story brings out, as chance seldom would."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import attrs

from objstore.chunks import driver
from objstore.chunks.driver import Commit
from objstore.ids import Slot
from objstore.meta import fences, intents, payloads, reads, schema
from objstore.meta.client import DEFAULT_TIMEOUT_MS, MetaClient
from objstore.meta.commands import BucketRef, Command, PutVersion
from objstore.meta.errors import NoSuchKey
from objstore.meta.queries import GetVersion, ListKeys, Query
from objstore.meta.repetition import Seen
from objstore.meta.rows import RowView
from objstore.meta.server import MetaServer
from objstore.meta.values import Version
from objstore.meta.versions import check_condition
from objstore.testing.mutants import stories
from objstore.testing.mutants.mutant import Mutant, patched

_SEEDS_MAX = 4


# ---- the bugs -------------------------------------------------------------------------


def _trust_intent(*_: object) -> None:
    """Every commit may name whatever chunks it likes."""


def _pass_any(view: RowView, slot: Slot, ref: BucketRef) -> str:
    """The fence is looked at for the versioning state only."""
    payload = view.get(schema.fence_key(slot, ref.bucket))
    if payload is None:
        return "unversioned"
    versioning: str = payloads.unpack(payload)[1]
    return versioning


_propose = MetaClient.propose
_query = MetaServer.query


_find = Seen.find


def _know_nothing(
    seen: Seen, rows: RowView, slot: Slot, time_ms: int, request: bytes
) -> tuple[bytes, bytes | None]:
    """What is kept under a request id is not heeded."""
    return _find(seen, rows, slot, time_ms, request)[0], None


async def _check_then_act(
    client: MetaClient, command: Command, *, timeout_ms: int = DEFAULT_TIMEOUT_MS
) -> Any:
    """The condition is judged by who proposes, and not again where it is applied."""
    if isinstance(command, PutVersion) and command.condition is not None:
        etag = None
        asked = GetVersion(command.slot, command.ref, command.key)
        try:
            found: Version = await client.query(asked, timeout_ms=timeout_ms)
            etag = None if found.draft is None else found.draft.etag
        except NoSuchKey:
            pass
        check_condition(command.condition, etag)
        command = attrs.evolve(command, condition=None)
    return await _propose(client, command, timeout_ms=timeout_ms)


async def _list_as_it_is(
    server: MetaServer, shard: Any, query: Query, *, timeout_ms: int | None = None
) -> Any:
    """A replica lists what it has, without asking how far it should be."""
    if isinstance(query, ListKeys):
        return reads.answer(server.store.machine(shard).rows, query)
    return await _query(server, shard, query, timeout_ms=timeout_ms)


def _write_only(batch: Sequence[Commit]) -> None:
    for commit in batch:
        commit.file.write_at(commit.offset, commit.buffers)


async def _use_thread(batch: Sequence[Commit]) -> bool:
    del batch
    return False


MUTANTS = [
    Mutant(
        name="commit-after-intent-expired",
        breaks="a commit is applied though its intent is gone",
        checker="fragments",
        scenario=partial(stories.tell, story=stories.late_commit),
        plant=partial(patched, intents, _require_alive=_trust_intent),
        seeds_max=_SEEDS_MAX,
    ),
    Mutant(
        name="ignore-bucket-fence",
        breaks="a put is applied in a bucket that is closed or dropped",
        checker="buckets",
        scenario=partial(stories.tell, story=stories.late_put),
        plant=partial(patched, fences, require=_pass_any),
        seeds_max=_SEEDS_MAX,
    ),
    Mutant(
        name="apply-retries-again",
        breaks="a request that comes again is applied again",
        checker="registers",
        scenario=partial(stories.tell, story=stories.lost_answers),
        plant=partial(patched, Seen, find=_know_nothing),
        seeds_max=_SEEDS_MAX,
    ),
    Mutant(
        name="check-then-act",
        breaks="a condition is judged before its write is applied, and not then",
        checker="registers",
        scenario=partial(stories.tell, story=stories.contest),
        plant=partial(patched, MetaClient, propose=_check_then_act),
        seeds_max=_SEEDS_MAX,
    ),
    Mutant(
        name="list-as-it-is",
        breaks="a follower lists without a ReadIndex",
        checker="lists",
        scenario=partial(stories.tell, story=stories.lagging_replica),
        plant=partial(patched, MetaServer, query=_list_as_it_is),
        seeds_max=_SEEDS_MAX,
    ),
    Mutant(
        name="skip-fragment-sync",
        breaks="fragments are acknowledged before they are synced",
        checker="fragments",
        scenario=partial(stories.tell, story=stories.blackout),
        plant=partial(
            patched,
            driver,
            _write_and_sync=_write_only,
            _write_without_thread=_use_thread,
        ),
        seeds_max=_SEEDS_MAX,
    ),
]
