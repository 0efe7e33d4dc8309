"""Bucket steps under many interleavings: who races, dies half-way, or is heard late.

Creators, deletions and reconcilers each walk their own `BucketSteps`, one command at a
time and in any order; writers use records that may be old; what was said once may come
again much later.  After every single command no object is in a bucket that is gone or
going, and an open bucket is open in all its slots; in the end nothing stays half-way.
"""

from __future__ import annotations

from random import Random
from typing import Any

import attrs
import pytest

from objstore.errors import ObjstoreError
from objstore.ids import Key, Slot
from objstore.meta import cluster, payloads, schema
from objstore.meta import commands as c
from objstore.meta.bucket_steps import BucketSteps
from objstore.meta.errors import NoSuchBucket, StaleBucket
from objstore.meta.schema import CLUSTER_SLOT, Table
from objstore.meta.values import BucketRecord, BucketState
from tests.unit.meta.builders import Shard, packed

NAME = "bucket"
SPAN = (Slot(1), Slot(2))
WORKERS_MAX = 4
STEPS = 600


@attrs.define(eq=False)
class Worker:
    """One who walks a bucket's steps; its commands arrive one by one."""

    steps: BucketSteps
    waiting: list[int] = attrs.field(factory=list)  # Places not delivered yet.
    commands: tuple[c.Command, ...] = ()
    outcomes: dict[int, object] = attrs.field(factory=dict)


class World:
    """One name, from bucket to bucket, in an order from a seed."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.cluster = Shard(slot=CLUSTER_SLOT)
        self.objects = Shard()
        self.workers: list[Worker] = []
        self.seen: list[BucketRecord] = []  # Records as some view may still have them.
        self.said: list[c.Command] = []  # Commands that may come again.
        self.ends: set[str] = set()

    # ---- what there is ----------------------------------------------------------------

    def record(self) -> BucketRecord | None:
        return cluster._bucket(self.cluster.view, NAME)

    def do(self, command: c.Command) -> Any:
        target = self.objects if hasattr(command, "slot") else self.cluster
        result = target.do(command)
        now = self.record()
        if now is not None and now not in self.seen[-1:]:
            self.seen.append(now)
        self.check()
        return result

    def known(self) -> BucketRecord | None:
        """A record as somebody has it: mostly a new one."""
        back = min(int(self.random.expovariate(0.7)), len(self.seen) - 1)
        return self.seen[-1 - back] if self.seen else None

    def buckets_in(self, slot: Slot) -> set[int]:
        """The buckets that have versions in a slot."""
        prefix = schema.table_prefix(slot, Table.VERSION)
        rows = self.objects.view.scan(prefix, schema.range_end(prefix))
        return {schema.bucket_of_row(key) for key, _ in rows}

    def check(self) -> None:
        now = self.record()
        for slot in SPAN:
            for bucket in self.buckets_in(slot):
                assert now is not None, "an object is in a deleted bucket"
                assert now.bucket == bucket
                assert now.state is not BucketState.DROPPING
            if now is not None and now.state is BucketState.OPEN:
                row = self.objects.view.get(schema.fence_key(slot, now.bucket))
                assert row is not None
                fence, _ = payloads.unpack_fence(now.bucket, row)
                assert (fence.is_open, fence.config_version) == (True, now.config_version)

    # ---- what may happen --------------------------------------------------------------

    def start(self, record: object) -> None:
        if isinstance(record, BucketRecord) and len(self.workers) < WORKERS_MAX:
            self.workers.append(Worker(BucketSteps(record)))

    def create(self) -> None:
        self.start(self.do(c.CreateBucketRecord(NAME, "owner", SPAN, "replicate:1")))

    def delete(self) -> None:
        """By one who looked at some moment; it joins where others are ahead."""
        if (known := self.known()) is not None:
            self.start(self.do(closing_step(known)))

    def reconcile(self) -> None:
        self.start(self.record())

    def write(self) -> None:
        if (known := self.known()) is not None:
            ref = c.BucketRef(known.bucket, known.config_version)
            slot = self.random.choice(SPAN)
            result = self.do(c.PutVersion(slot, ref, Key(b"k"), packed()))
            assert isinstance(result, c.PutResult | StaleBucket)

    def remove(self) -> None:
        if (known := self.known()) is not None:
            ref = c.BucketRef(known.bucket, known.config_version)
            self.do(c.DeleteVersion(self.random.choice(SPAN), ref, Key(b"k")))

    def work(self) -> None:
        """One command of one worker is applied; with the last, it goes on."""
        if not self.workers:
            return
        worker = self.random.choice(self.workers)
        if not worker.waiting and not self._next(worker):
            return
        place = worker.waiting.pop(self.random.randrange(len(worker.waiting)))
        command = worker.commands[place]
        worker.outcomes[place] = self.do(command)
        self._say(command)
        if not worker.waiting:
            outcomes = [worker.outcomes[n] for n in range(len(worker.commands))]
            worker.steps.take(outcomes)  # Never at a loss.

    def _next(self, worker: Worker) -> bool:
        if worker.steps.is_over:
            found = worker.steps.record
            self.ends.add("gone" if found is None else found.state.name)
            self.workers.remove(worker)
            return False
        worker.commands = worker.steps.commands()
        worker.waiting = list(range(len(worker.commands)))
        worker.outcomes = {}
        return True

    def _say(self, command: c.Command) -> None:
        # SetBucketState is remembered by its request: it is never applied twice.
        if not isinstance(command, c.SetBucketState):
            self.said.append(command)

    def die(self) -> None:
        """Where it stands; what it had on its way may still come."""
        if self.workers:
            worker = self.workers.pop(self.random.randrange(len(self.workers)))
            for place in worker.waiting:
                self._say(worker.commands[place])

    def come_again(self) -> None:
        if self.said:
            back = min(int(self.random.expovariate(0.2)), len(self.said) - 1)
            self.do(self.said[-1 - back])

    def run(self) -> None:
        deeds = {
            self.work: 60,
            self.write: 5,
            self.remove: 8,
            self.delete: 5,
            self.create: 3,
            self.reconcile: 2,
            self.die: 2,
            self.come_again: 5,
        }
        for deed in self.random.choices(list(deeds), list(deeds.values()), k=STEPS):
            deed()

    def settle(self) -> None:
        """Whatever was left half-way, one reconciler ends it."""
        last = self.record()
        if last is None:
            return
        steps = BucketSteps(last)
        while not steps.is_over:
            steps.take([self.do(command) for command in steps.commands()])
        now = self.record()
        assert now == steps.record
        for slot in SPAN:
            ref = c.BucketRef(last.bucket, now.config_version if now else 1)
            result = self.do(c.PutVersion(slot, ref, Key(b"k"), packed()))
            assert isinstance(result, StaleBucket if now is None else c.PutResult)


def closing_step(record: BucketRecord) -> c.SetBucketState:
    return c.SetBucketState(NAME, record.bucket, record.config_version, BucketState.CLOSING)


@pytest.mark.parametrize("batch", range(4))
def test_no_object_is_in_a_deleted_bucket_and_none_stays_half_way(batch: int) -> None:
    ends: set[str] = set()
    for seed in range(batch * 15, batch * 15 + 15):
        world = World(seed)
        try:
            world.run()
            world.settle()
        except (AssertionError, ObjstoreError) as error:
            raise AssertionError(f"seed {seed}: {error}") from error
        ends |= world.ends
    assert ends >= {"gone", "OPEN", "CLOSING"}


def test_whoever_is_second_learns_what_the_first_one_did() -> None:
    world = World(0)
    record = world.do(c.CreateBucketRecord(NAME, "owner", SPAN, "replicate:1"))
    one, other = BucketSteps(record), BucketSteps(record)
    for steps in (one, other, one, other):
        steps.take([world.do(command) for command in steps.commands()])
    assert one.record == other.record == world.record()
    closing = world.do(closing_step(world.record()))  # type: ignore[arg-type]
    one, other = BucketSteps(closing), BucketSteps(closing)
    for steps in (one, other):
        while not steps.is_over:
            steps.take([world.do(command) for command in steps.commands()])
        assert steps.record is None
    assert isinstance(world.do(closing_step(record)), NoSuchBucket)
