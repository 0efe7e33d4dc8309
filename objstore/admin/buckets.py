"""Buckets with their exact counters, for the admin API.

Counters are asked of the shards of each bucket, many buckets at once.  A bucket whose
shards do not answer is shown without them, and says so: one shard that is down must not
hide all the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import structlog
import trio

from objstore.errors import ObjstoreError
from objstore.meta.client import MetaClient
from objstore.meta.queries import GetUsage
from objstore.meta.values import BucketRecord, Usage

log = structlog.get_logger()

_AT_ONCE = 16
_USAGE_TIMEOUT_MS = 3_000
_ALL_TIMEOUT_S = 15.0
_COUNTERS = [field.name for field in attrs.fields(Usage)]


@attrs.frozen
class BucketReports:
    """Tells of buckets."""

    meta: MetaClient

    async def describe(self, record: BucketRecord) -> dict[str, Any]:
        """One bucket.  Raises Unavailable where its counters cannot be had."""
        return _describe(record) | attrs.asdict(await self._usage(record))

    async def describe_all(self, records: Sequence[BucketRecord]) -> list[dict[str, Any]]:
        """All of them, in order; without counters where those cannot be had in time."""
        described = [_describe(record) for record in records]
        limiter = trio.CapacityLimiter(_AT_ONCE)

        async def describe(place: int) -> None:
            async with limiter:
                try:
                    usage = await self._usage(records[place])
                except ObjstoreError as error:
                    described[place]["problem"] = str(error)
                else:
                    described[place] |= attrs.asdict(usage)

        with trio.move_on_after(_ALL_TIMEOUT_S):
            async with trio.open_nursery() as nursery:
                for place in range(len(records)):
                    nursery.start_soon(describe, place)
        for bucket in described:
            if "objects" not in bucket:
                bucket.update(dict.fromkeys(_COUNTERS))
                bucket.setdefault("problem", "there was no time left to ask")
        return described

    async def _usage(self, record: BucketRecord) -> Usage:
        query = GetUsage(slots=record.span, bucket=record.bucket)
        usage = await self.meta.query(query, timeout_ms=_USAGE_TIMEOUT_MS)
        assert isinstance(usage, Usage)
        return usage


def _describe(record: BucketRecord) -> dict[str, Any]:
    return {
        "name": record.name,
        "incarnation": record.bucket,
        "owner": record.owner,
        "created_ms": record.created_ms,
        "state": record.state.name.lower(),
        "versioning": record.versioning,
        "redundancy": record.scheme,
    }
