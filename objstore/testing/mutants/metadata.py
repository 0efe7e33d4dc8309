"""Bugs of state machines and commands, found by whole clusters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import attrs

from objstore.ids import BucketId, Key
from objstore.meta import apply, local, schema, versions
from objstore.meta.commands import DeleteVersion
from objstore.meta.local import Progress
from objstore.meta.rows import StagedRows
from objstore.meta.store import ShardMachine
from objstore.meta.values import Inline
from objstore.meta.work import Work
from objstore.raft.state_machine import Entry, Membership
from objstore.testing.mutants.mutant import Mutant, patched
from objstore.testing.mutants.whole import simulate_cluster

_SEEDS_MAX = 6
_RESTARTS = ("crash", "kill", "blackout")


# ---- the bugs -------------------------------------------------------------------------

_apply = ShardMachine.apply
_write = ShardMachine._write


def _apply_singles_twice(
    machine: ShardMachine, entries: Sequence[Entry], membership: Membership
) -> list[object]:
    """An entry that comes alone is applied again, under the same index."""
    results = _apply(machine, entries, membership)
    if len(entries) == 1 and entries[0].index % 4 == 0:
        progress = machine._progress
        machine._progress = _one_back(progress)
        _apply(machine, entries, membership)
    return results


def _one_back(progress: Progress) -> Progress:
    return attrs.evolve(progress, index=progress.index - 1)


def _write_without_index(
    machine: ShardMachine, rows: StagedRows, progress: Progress
) -> None:
    """The applied index is in the batch of every eighth entry only."""
    if progress.index % 8 == 0:
        _write(machine, rows, progress)
        return
    with patched(local, pack_progress=_pack_of(machine)):
        _write(machine, rows, progress)


def _pack_of(machine: ShardMachine) -> Callable[[Progress, bytes], bytes]:
    """Packs what the store has already, instead of what it is given."""
    pack = local.pack_progress
    key = local.applied_key(machine.group)
    known = machine._kv.get(key)

    def packed(progress: Progress, members: bytes) -> bytes:
        return pack(progress, members) if known is None else schema.unseal(key, known)

    return packed


_remove_row = versions._remove_row


def _remove_inline_row(
    work: Work, bucket: BucketId, key: Key, found: versions.Found, versioning: str
) -> None:
    """What has chunks stays, where a delete removes it."""
    row_key, head = found
    payload = work.rows.get(row_key)
    _remove_row(work, bucket, key, found, versioning)
    if _is_delete and payload is not None and not isinstance(head.location(), Inline):
        work.rows.put(row_key, payload)


_is_delete = False
_delete_version = versions.delete_version


def _delete(work: Work, command: Any) -> Any:
    global _is_delete  # noqa: PLW0603 - a bug need not be beautiful.
    _is_delete = True
    try:
        return _delete_version(work, command)
    finally:
        _is_delete = False


@contextmanager
def _chunked_rows_kept() -> Iterator[None]:
    once = {**apply._ONCE, DeleteVersion: _delete}
    with (
        patched(apply, _ONCE=once),
        patched(versions, _remove_row=_remove_inline_row),
    ):
        yield


_count = Work.count


def _count_adrift(work: Work, bucket: BucketId, **changes: Any) -> None:
    """Bytes that go are sometimes forgotten to be taken off."""
    if changes.get("size", 0) < 0 and work.index % 3 == 0:
        changes["size"] = 0
    _count(work, bucket, **changes)


MUTANTS = [
    Mutant(
        name="apply-twice",
        breaks="an entry is applied a second time",
        checker="replicas",
        scenario=partial(simulate_cluster, faults=("slow", "network")),
        plant=partial(patched, ShardMachine, apply=_apply_singles_twice),
        seeds_max=_SEEDS_MAX,
    ),
    Mutant(
        name="forget-applied-index",
        breaks="the applied index is not in the same batch as the rows",
        checker="replicas",
        scenario=partial(simulate_cluster, faults=_RESTARTS),
        plant=partial(patched, ShardMachine, _write=_write_without_index),
        seeds_max=_SEEDS_MAX,
    ),
    Mutant(
        name="delete-keeps-row",
        breaks="a delete leaves the row of an object that has chunks",
        checker="resurrection",
        scenario=simulate_cluster,
        plant=_chunked_rows_kept,
        seeds_max=_SEEDS_MAX,
    ),
    Mutant(
        name="counters-drift",
        breaks="bytes of what is overwritten are not always taken off",
        checker="counters",
        scenario=simulate_cluster,
        plant=partial(patched, Work, count=_count_adrift),
        seeds_max=_SEEDS_MAX,
    ),
]
