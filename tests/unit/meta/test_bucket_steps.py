"""Bucket steps under every interleaving: who races, dies half-way, or is heard late.

Creators, deletions and reconcilers each walk their own `BucketSteps`; writers use records
that may be old; what was said once may be said again much later.  After every single
command no object is in a bucket that is gone or going, and an open bucket is open in all
its slots; in the end nothing stays half-way.
"""

from __future__ import annotations

from typing import Any

import attrs
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from objstore.errors import ObjstoreError
from objstore.ids import Key, Slot
from objstore.meta import cluster, payloads, schema
from objstore.meta import commands as c
from objstore.meta.bucket_steps import BucketSteps
from objstore.meta.errors import NoSuchBucket, StaleBucket
from objstore.meta.schema import CLUSTER_SLOT, Table
from objstore.meta.values import BucketRecord, BucketState
from tests.unit.meta.builders import Shard, draft

NAME = "bucket"
SPAN = (Slot(1), Slot(2))
WORKERS_MAX = 4


@attrs.define(eq=False)
class Worker:
    """One who walks a bucket's steps; its commands arrive one by one."""

    steps: BucketSteps
    waiting: list[int] = attrs.field(factory=list)  # Places not delivered yet.
    commands: tuple[c.Command, ...] = ()
    outcomes: dict[int, object] = attrs.field(factory=dict)


class BucketMachine(RuleBasedStateMachine):
    """One name, from bucket to bucket."""

    @initialize()
    def begin(self) -> None:
        self.cluster = Shard(slot=CLUSTER_SLOT)
        self.objects = Shard()
        self.workers: list[Worker] = []
        self.seen: list[BucketRecord] = []  # Records as some view may still have them.
        self.said: list[c.Command] = []  # Commands that may come again.

    # ---- what there is ----------------------------------------------------------------

    def record(self) -> BucketRecord | None:
        return cluster._bucket(self.cluster.view, NAME)

    def do(self, command: c.Command) -> Any:
        target = self.objects if hasattr(command, "slot") else self.cluster
        result = target.do(command)
        now = self.record()
        if now is not None and now not in self.seen:
            self.seen.append(now)
        return result

    def objects_in(self, slot: Slot) -> set[int]:
        """The buckets that have versions in a slot."""
        prefix = schema.table_prefix(slot, Table.VERSION)
        rows = self.objects.view.scan(prefix, schema.range_end(prefix))
        return {schema.bucket_of_row(key) for key, _ in rows}

    def fence(self, slot: Slot, record: BucketRecord) -> tuple[Any, bool]:
        row = self.objects.view.get(schema.fence_key(slot, record.bucket))
        assert row is not None
        return payloads.unpack_fence(record.bucket, row)

    def start(self, record: BucketRecord) -> None:
        if len(self.workers) < WORKERS_MAX:
            self.workers.append(Worker(BucketSteps(record)))

    # ---- who comes --------------------------------------------------------------------

    @rule()
    def create(self) -> None:
        made = self.do(c.CreateBucketRecord(NAME, "owner", SPAN, "replicate:1"))
        if isinstance(made, BucketRecord):
            self.start(made)

    @rule(choice=st.integers(0, 9))
    def delete(self, choice: int) -> None:
        """By one who looked at some moment; it joins where others are ahead."""
        if self.seen:
            known = self.seen[-1 - choice % len(self.seen)]
            closing = self.do(
                c.SetBucketState(
                    NAME, known.bucket, known.config_version, BucketState.CLOSING
                )
            )
            if isinstance(closing, BucketRecord):
                self.start(closing)

    @rule()
    def reconcile(self) -> None:
        now = self.record()
        if now is not None:
            self.start(now)

    @rule(choice=st.integers(0, 9), slot=st.sampled_from(SPAN))
    def write(self, choice: int, slot: Slot) -> None:
        if self.seen:
            known = self.seen[-1 - choice % len(self.seen)]
            ref = c.BucketRef(known.bucket, known.config_version)
            result = self.do(c.PutVersion(slot, ref, Key(b"k"), draft()))
            assert isinstance(result, c.PutResult | StaleBucket)

    @rule(choice=st.integers(0, 9), slot=st.sampled_from(SPAN))
    def remove(self, choice: int, slot: Slot) -> None:
        if self.seen:
            known = self.seen[-1 - choice % len(self.seen)]
            ref = c.BucketRef(known.bucket, known.config_version)
            self.do(c.DeleteVersion(slot, ref, Key(b"k")))

    # ---- what happens to them ---------------------------------------------------------

    @rule(choice=st.integers(0, 9), order=st.integers(0, 9))
    def deliver(self, choice: int, order: int) -> None:
        """One command of one worker is applied; with the last, it goes on."""
        if not self.workers:
            return
        worker = self.workers[choice % len(self.workers)]
        if not worker.waiting and not self._next(worker):
            return
        place = worker.waiting.pop(order % len(worker.waiting))
        command = worker.commands[place]
        worker.outcomes[place] = self.do(command)
        if not isinstance(command, c.SetBucketState):  # Which is remembered by its id.
            self.said.append(command)
        if not worker.waiting:
            outcomes = [worker.outcomes[n] for n in range(len(worker.commands))]
            try:
                worker.steps.take(outcomes)
            except ObjstoreError as error:
                raise AssertionError("steps are never at a loss") from error

    def _next(self, worker: Worker) -> bool:
        if worker.steps.is_over:
            self.workers.remove(worker)
            return False
        worker.commands = worker.steps.commands()
        worker.waiting = list(range(len(worker.commands)))
        worker.outcomes = {}
        return True

    @rule(choice=st.integers(0, 9))
    def die(self, choice: int) -> None:
        """Where it stands; what it had on its way may still come."""
        if self.workers:
            worker = self.workers.pop(choice % len(self.workers))
            self.said += [
                worker.commands[place]
                for place in worker.waiting
                if not isinstance(worker.commands[place], c.SetBucketState)
            ]

    @rule(choice=st.integers(0, 30))
    def come_again(self, choice: int) -> None:
        if self.said:
            self.do(self.said[choice % len(self.said)])

    # ---- what always holds ------------------------------------------------------------

    @invariant()
    def no_object_is_in_a_bucket_that_is_gone_or_going(self) -> None:
        if not hasattr(self, "cluster"):
            return
        now = self.record()
        for slot in SPAN:
            for bucket in self.objects_in(slot):
                assert now is not None
                assert now.bucket == bucket
                assert now.state is not BucketState.DROPPING

    @invariant()
    def an_open_bucket_is_open_in_every_slot(self) -> None:
        if not hasattr(self, "cluster"):
            return
        now = self.record()
        if now is not None and now.state is BucketState.OPEN:
            for slot in SPAN:
                fence, _ = self.fence(slot, now)
                assert fence.is_open
                assert fence.config_version == now.config_version

    def teardown(self) -> None:
        """Whatever was left half-way, one reconciler ends it."""
        if not hasattr(self, "cluster"):
            return
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
            result = self.do(c.PutVersion(slot, ref, Key(b"k"), draft()))
            assert isinstance(result, StaleBucket if now is None else c.PutResult)


BucketMachine.TestCase.settings = settings(
    max_examples=400, stateful_step_count=60, deadline=None
)
TestBucketMachine = BucketMachine.TestCase


def closing_of(shard: Shard, record: BucketRecord) -> BucketRecord:
    version = record.config_version
    step = c.SetBucketState(NAME, record.bucket, version, BucketState.CLOSING)
    closing: BucketRecord = shard.must(step)
    return closing


def test_whoever_is_second_learns_what_the_first_one_did() -> None:
    machine = BucketMachine()
    machine.begin()
    record = machine.do(c.CreateBucketRecord(NAME, "owner", SPAN, "replicate:1"))
    one, other = BucketSteps(record), BucketSteps(record)
    for steps in (one, other, one, other):
        steps.take([machine.do(command) for command in steps.commands()])
    assert one.record == other.record == machine.record()
    closing = closing_of(machine.cluster, machine.record())  # type: ignore[arg-type]
    one, other = BucketSteps(closing), BucketSteps(closing)
    while not one.is_over:
        one.take([machine.do(command) for command in one.commands()])
    assert one.record is None
    while not other.is_over:
        other.take([machine.do(command) for command in other.commands()])
    assert other.record is None
    assert isinstance(machine.do(c.SetBucketState(NAME, record.bucket, 2, 3)), NoSuchBucket)  # type: ignore[arg-type]
