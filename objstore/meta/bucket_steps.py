"""Bucket steps: what comes next for a bucket that is on its way to be open, or gone.  Pure.

    CREATING   OpenBucket in each slot of the span -----------------------> OPEN
    CLOSING    CloseBucket in each slot --- all closed -------------------> DROPPING
                                        '-- one not empty --> CREATING
    DROPPING   DropBucket in each slot -----------------------------------> (gone)

A state's commands to the slots go out at once; when all are answered, one command asks for
the next state.  Several may work on a bucket at the same time, and each may die anywhere:
the record decides between them.  SetBucketState names the config version that its proposer
knew, does nothing where the record is another one by then, and answers with the record as
it is: so whoever comes second learns what the first one did, and goes on from there.

Why no object is in a deleted bucket, and no bucket stays half-way (v: config version):

- DROPPING is entered from CLOSING at v by one whom every slot told that it is empty and
  closed at v.  Only OpenBucket at v could open it again, and that is proposed for a record
  that went from CLOSING at v to CREATING: not for the one that went to DROPPING.
- OPEN at v is entered from CREATING at v by one whom every slot told that it is open at v,
  and a CloseBucket at v does not close what is open at v.  Closing it for v + 1 begins
  after that.
- From DROPPING nothing leads back, and every other state is gone on with by the reconciler.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import attrs

from objstore.errors import ObjstoreError
from objstore.meta.commands import (
    CloseBucket,
    Command,
    DropBucket,
    DropBucketRecord,
    OpenBucket,
    SetBucketState,
)
from objstore.meta.errors import BucketNotEmpty, NoSuchBucket, StaleBucket
from objstore.meta.values import BucketFence, BucketRecord, BucketState

# Proposes all at once; a result or an error in each one's place.
ProposeEach = Callable[[Sequence[Command]], Awaitable[Sequence[object]]]


@attrs.define
class BucketSteps:
    """One worker's way through a bucket's steps.

    `commands` says what to propose, all at once; `take` is told what came of each.
    """

    record: BucketRecord | None  # As last heard; None: the bucket is gone.
    found_content: BucketNotEmpty | None = attrs.field(default=None, init=False)
    _config_version: int = attrs.field(init=False)
    _record_step: Command | None = attrs.field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        assert self.record is not None
        self._config_version = self.record.config_version

    @property
    def is_over(self) -> bool:
        """Whether the bucket is open or gone, or another deletion of it has begun."""
        record = self.record
        return (
            record is None
            or record.state is BucketState.OPEN
            or record.config_version != self._config_version
        )

    def commands(self) -> tuple[Command, ...]:
        """What to propose now; every one may be repeated."""
        assert self.record is not None
        if self._record_step is not None:
            return (self._record_step,)
        return tuple(_slot_steps(self.record))

    def take(self, outcomes: Sequence[object]) -> None:
        """Go on by what came of `commands`: results and errors, in their order.

        Raises the error that this cannot deal with: then the rest is for whoever goes on.
        """
        if self._record_step is None:
            self._take_slots([o for o in outcomes if isinstance(o, ObjstoreError)])
        else:
            self._record_step = None
            self._take_record(outcomes[0])

    def _take_slots(self, errors: list[ObjstoreError]) -> None:
        record = self.record
        assert record is not None
        if record.state is BucketState.CREATING:
            if any(isinstance(error, NoSuchBucket) for error in errors):
                self.record = None  # It was opened, deleted and dropped meanwhile.
                return
            target = BucketState.OPEN
        elif record.state is BucketState.CLOSING:
            target = BucketState.DROPPING
            for error in errors:
                if isinstance(error, BucketNotEmpty):
                    self.found_content = error
                if isinstance(error, BucketNotEmpty | StaleBucket):
                    target = BucketState.CREATING
        else:
            _raise_first(errors)
            self._record_step = DropBucketRecord(record.name, record.bucket)
            return
        if target is not BucketState.CREATING:
            _raise_first(errors)
        self._record_step = SetBucketState(
            record.name, record.bucket, record.config_version, target
        )

    def _take_record(self, outcome: object) -> None:
        if outcome is None or isinstance(outcome, NoSuchBucket):
            self.record = None
        elif isinstance(outcome, ObjstoreError):
            raise outcome
        else:
            assert isinstance(outcome, BucketRecord)
            self.record = outcome


def _slot_steps(record: BucketRecord) -> list[Command]:
    bucket, version = record.bucket, record.config_version
    if record.state is BucketState.CREATING:
        fence = BucketFence(bucket, version, record.versioning, is_open=True)
        return [OpenBucket(slot, fence) for slot in record.span]
    if record.state is BucketState.CLOSING:
        return [CloseBucket(slot, bucket, version) for slot in record.span]
    assert record.state is BucketState.DROPPING
    return [DropBucket(slot, bucket) for slot in record.span]


def _raise_first(errors: list[ObjstoreError]) -> None:
    if errors:
        raise errors[0]


async def finish(propose_each: ProposeEach, record: BucketRecord) -> BucketRecord | None:
    """Go on with a bucket from wherever it stands; the record in the end, None: it is gone.

    Where it is there in the end although this began as a deletion, others turned that back
    for what they saw: the asker may begin anew.
    Raises BucketNotEmpty where this itself saw content, and the bucket is open again or
    in others' hands; `meta.errors`, Unavailable.
    If cancelled, the rest is for whoever goes on.
    """
    steps = BucketSteps(record)
    while not steps.is_over:
        steps.take(await propose_each(steps.commands()))
    if steps.found_content is not None and steps.record is not None:
        raise steps.found_content
    return steps.record
