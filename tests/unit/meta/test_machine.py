"""Apply against a dict: random commands, and after each the same objects and counts."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
)

from objstore.errors import ObjstoreError
from objstore.ids import Key
from objstore.meta import audit, reads
from objstore.meta import commands as c
from objstore.meta import queries as q
from objstore.meta.errors import NoSuchKey, NoSuchUpload
from objstore.meta.payloads import pack_draft
from objstore.meta.values import BucketFence
from tests.unit.meta.builders import (
    BUCKET,
    MIB,
    SLOT,
    Shard,
    chunks,
    draft,
    etag_of,
    intent,
    large_draft,
    packed,
    part,
    upload,
    upload_id,
)

KEYS = [b"a", b"a\0", b"a/b", b"b"]
keys = st.sampled_from(KEYS)

# The model: per key, versions newest first as (version id, etag or None, size).
Versions = list[tuple[str, str | None, int]]


class MetaMachine(RuleBasedStateMachine):
    """Commands to one slot of one bucket."""

    uploads = Bundle("uploads")

    @initialize()
    def begin(self) -> None:
        self.shard = Shard()
        self.config_version = 1
        self.versioning = "unversioned"
        self.model: dict[bytes, Versions] = {key: [] for key in KEYS}
        self.parts: dict[int, dict[int, int]] = {}  # Upload number -> part -> size.
        self.upload_keys: dict[int, bytes] = {}
        self.intents = 0
        self.last: tuple[Any, bytes, Any] | None = None
        self._fence()

    def _fence(self) -> None:
        fence = BucketFence(BUCKET, self.config_version, self.versioning, is_open=True)
        self.shard.must(c.OpenBucket(SLOT, fence))

    @property
    def ref(self) -> c.BucketRef:
        return c.BucketRef(BUCKET, self.config_version)

    def _do(self, command: Any) -> Any:
        self.intents += 1
        request = b"q" + self.intents.to_bytes(15, "big")
        result = self.shard.do(command, request)
        self.last = (command, request, result)
        return result

    def _stored(self, key: bytes, version_id: str, etag: str | None, size: int) -> None:
        rows = self.model[key]
        if self.versioning != "enabled":
            rows[:] = [row for row in rows if row[0] != "null"]
        rows.insert(0, (version_id, etag, size))

    # ---- rules ------------------------------------------------------------------------

    @rule(state=st.sampled_from(["enabled", "suspended"]))
    def set_versioning(self, state: str) -> None:
        self.versioning = state
        self.config_version += 1
        self._fence()

    @rule(
        key=keys,
        data=st.binary(min_size=1, max_size=4),
        condition=st.sampled_from(["none", "create", "swap", "wrong"]),
    )
    def put(self, key: bytes, data: bytes, condition: str) -> None:
        rows = self.model[key]
        current = rows[0][1] if rows else None
        wish = {
            "none": c.UNCONDITIONAL,
            "create": c.WriteCondition(if_none_match=("*",)),
            "swap": c.WriteCondition(if_match=(current or "x",)),
            "wrong": c.WriteCondition(if_match=("no such etag",)),
        }[condition]
        result = self._do(c.PutVersion(SLOT, self.ref, Key(key), packed(data), wish))
        wins = {
            "none": True,
            "create": current is None,
            "swap": current is not None,
            "wrong": False,
        }[condition]
        assert isinstance(result, c.PutResult) == wins
        if wins:
            self._stored(key, result.version_id, draft(data).etag, len(data))

    @rule(key=keys, gone=st.sets(st.integers(0, 2)), away=st.booleans())
    def put_large(self, key: bytes, gone: set[int], away: bool) -> None:
        self.intents += 1
        mine = intent(self.intents)
        self._do(c.BeginIntent(SLOT, self.ref, Key(key), mine))
        stand_ins = (3,) if away else ()
        location = chunks(
            mine, 2, missing=tuple(gone), away=stand_ins, scheme="replicate:4"
        )
        made = large_draft(location)
        result = self._do(
            c.PutVersion(SLOT, self.ref, Key(key), pack_draft(made), intent=mine)
        )
        self._stored(key, result.version_id, made.etag, made.size)

    @rule(key=keys)
    def delete(self, key: bytes) -> None:
        result = self._do(c.DeleteVersion(SLOT, self.ref, Key(key)))
        if self.versioning == "unversioned":
            self.model[key].clear()
        else:
            self._stored(key, result.version_id, None, 0)

    @rule(key=keys, place=st.integers(0, 3))
    def delete_version(self, key: bytes, place: int) -> None:
        rows = self.model[key]
        version_id = rows[place][0] if place < len(rows) else "f" * 32
        named: Any = version_id
        self._do(c.DeleteVersion(SLOT, self.ref, Key(key), named))
        rows[:] = [row for row in rows if row[0] != version_id]

    @rule()
    def repeat(self) -> None:
        """R13: the last command comes again."""
        if self.last is not None:
            command, request, result = self.last
            again = self.shard.do(command, request)
            if isinstance(result, ObjstoreError):
                assert type(again) is type(result)
            else:
                assert again == result

    @rule(target=uploads, key=keys)
    def create_upload(self, key: bytes) -> int:
        number = len(self.upload_keys) + 1
        self._do(c.CreateUpload(SLOT, self.ref, upload(number, key)))
        self.upload_keys[number] = key
        self.parts[number] = {}
        return number

    @rule(of=uploads, number=st.integers(1, 3), is_large=st.booleans())
    def put_part(self, of: int, number: int, is_large: bool) -> None:
        self.intents += 1
        mine = intent(self.intents)
        key = Key(self.upload_keys[of])
        more: dict[str, Any] = {}
        if is_large:
            self._do(c.BeginIntent(SLOT, self.ref, key, mine))
            more = {"location": chunks(mine, missing=(number % 2,))}
        piece = part(number, 5 * MIB + number, **more)
        command = c.PutPart(
            SLOT, self.ref, key, upload_id(of), piece, mine if is_large else None
        )
        result = self._do(command)
        if of in self.parts:
            self.parts[of][number] = piece.size
        else:
            assert isinstance(result, NoSuchUpload)

    @rule(of=uploads, drop=st.integers(0, 3))
    def complete(self, of: int, drop: int) -> None:
        key = self.upload_keys[of]
        sizes = self.parts.get(of)
        numbers = sorted(n for n in sizes or {1: 0} if n != drop)
        refs = tuple(c.PartRef(n, etag_of(n)) for n in numbers)
        command = c.CompleteUpload(SLOT, self.ref, Key(key), upload_id(of), refs)
        result = self._do(command)
        if not sizes or not numbers:
            assert isinstance(result, ObjstoreError | c.CompleteResult)
            return
        del self.parts[of]
        put = result.put
        size = sum(sizes[n] for n in numbers)
        self._stored(key, put.version_id, put.etag, size)

    @rule(of=uploads)
    def abort(self, of: int) -> None:
        key = Key(self.upload_keys[of])
        result = self._do(c.AbortUpload(SLOT, self.ref, key, upload_id(of)))
        assert (result is None) == (of in self.parts)
        self.parts.pop(of, None)

    @rule(choice=st.integers(0, 5), index=st.integers(0, 3), mend=st.booleans())
    def move_fragment(self, choice: int, index: int, mend: bool) -> None:
        below = self.shard.ask(q.ListBelow((SLOT,)))
        if below:
            entry = below[choice % len(below)]
            state: dict[int, str | None] = {d.index: d.node for d in entry.ref.displaced}
            found = state.get(index, "")
            now = "" if mend else None
            change = c.ChangeDisplaced(SLOT, entry.place, ((index, found, now),))
            assert not isinstance(self._do(change), ObjstoreError)

    @rule()
    def drain(self) -> None:
        self.shard.drain()

    @rule(by_ms=st.sampled_from([1, 16 * 60_000, 25 * 3_600_000]))
    def wait(self, by_ms: int) -> None:
        self.shard.time_ms += by_ms
        self.last = None  # It may be forgotten by now.

    # ---- what always holds ------------------------------------------------------------

    @invariant()
    def counters_and_references_are_exact(self) -> None:
        if hasattr(self, "shard"):
            assert audit.audit_slot(self.shard.view.rows.items()) == []

    @invariant()
    def every_version_is_as_in_the_model(self) -> None:
        if not hasattr(self, "shard"):
            return
        listed = reads.answer(self.shard.view, q.ListKeys((SLOT,), self.ref, versions=True))
        found: dict[bytes, Versions] = {key: [] for key in KEYS}
        for key, version in listed.versions():
            assert version is not None
            etag = None if version.is_delete_marker else version.etag
            found[key].append((version.version_id, etag, version.size))
        assert found == self.model
        for key, rows in self.model.items():
            self._check_current(key, rows)
        usage = self.shard.usage()
        everything = [row for rows in self.model.values() for row in rows]
        live = [rows for rows in self.model.values() if rows and rows[0][1] is not None]
        assert usage.objects == len(live)
        assert usage.versions == len(everything)
        assert usage.bytes == sum(row[2] for row in everything)
        assert usage.uploads == len(self.parts)

    def _check_current(self, key: bytes, rows: Versions) -> None:
        try:
            current = self.shard.get(key, ref=self.ref)
        except NoSuchKey:
            assert not rows
        else:
            assert current.version_id == rows[0][0]
            named: Any = rows[-1][0]
            assert self.shard.get(key, named, self.ref).version_id == rows[-1][0]


MetaMachine.TestCase.settings = settings(
    max_examples=25, stateful_step_count=30, deadline=None
)
TestMetaMachine = MetaMachine.TestCase
