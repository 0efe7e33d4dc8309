"""A stopped node's folder, verified record by record; nothing in it is changed.

    node.json, secrets.json, layout   who the node is, what it needs to start
    wal/                              every log record; what they add up to, per shard
    meta/                             every row's checksum; counters and references equal to
                                      a recount; every row of the chunk index
    wal/ beside meta/                 whether a start would trust them together
    each drive                        every segment, record and block

A *problem* is something that was lost or must not be there.  A *note* is worth knowing
and no fault: the unfinished write of a crash, rows that a start deletes.

What one folder cannot tell: whether it has every fragment that the cluster expects of it
(a read, and the repair after it, find that), and whether it is a copy of an older state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import attrs

from objstore.chunks import index as chunk_index
from objstore.chunks.check import DriveCheck, check_drive
from objstore.chunks.segment import segment_name
from objstore.errors import ConfigError, CorruptData
from objstore.host.disk import Directory, read_file
from objstore.host.kv import View
from objstore.ids import DriveId, FragmentId, Slot
from objstore.limits import SLOT_COUNT
from objstore.meta import audit, local, schema
from objstore.node.identity import Identity, IdentityState, load_secrets, read_identity
from objstore.raft import wal
from objstore.raft.hard_state import Damage
from objstore.raft.recovery import RecoveredGroup, restore
from objstore.ring.layout import decode as decode_layout

_FRAGMENT_ROWS = chunk_index.PREFIX + b"f"
_LAYOUT = "layout"
_NEWCOMERS = {IdentityState.FOUNDING, IdentityState.JOINING}


@attrs.frozen
class Finding:
    """Something to tell a person."""

    file: str  # Inside the node's folder; a drive's by its own path.
    reason: str
    offset: int | None = None  # In the file; None: it has no place in it.
    is_problem: bool = True


@attrs.define
class Counts:
    """How much was verified."""

    log_segments: int = 0
    log_entries: int = 0
    shards: int = 0
    slots: int = 0
    rows: int = 0
    indexed_fragments: int = 0
    drives: list[DriveCheck] = attrs.field(factory=list)


@attrs.define
class FolderCheck:
    """One check: iterate `run`, then look at what was counted."""

    directory: Directory
    open_store: Callable[[Directory], View]  # Read only.  Raises CorruptData, OSError.
    open_drive: Callable[[str], Directory]  # Raises OSError.
    drives: Sequence[str] = ()  # Beside those that the folder itself knows.
    on_part: Callable[[str], None] = attrs.field(default=lambda _: None)
    identity: Identity | None = None
    counts: Counts = attrs.field(factory=Counts)
    _groups: dict[int, RecoveredGroup] = attrs.field(factory=dict)
    _progress: dict[int, local.Progress] = attrs.field(factory=dict)
    _known_drives: dict[DriveId, str] = attrs.field(factory=dict)
    _has_log: bool = False
    _has_store: bool = False

    def run(self) -> Iterator[Finding]:
        """Verify everything, part by part.  Blocks for as long as reading it takes."""
        self.on_part("identity")
        yield from self._check_identity()
        self.on_part("log")
        yield from self._check_log()
        self.on_part("metadata")
        yield from self._check_store()
        if self._has_log and self._has_store:
            yield from self._compare()
        for path in self._named_drives():
            self.on_part(f"drive {path}")
            yield from self._check_drive(path)
        # The folder may have been moved since its index noted a path: known by id.
        checked = {d.identity.drive for d in self.counts.drives if d.identity is not None}
        for drive, path in self._known_drives.items():
            if drive not in checked:
                self.on_part(f"drive {path}")
                yield from self._check_drive(path)

    # ---- who it is --------------------------------------------------------------------

    def _check_identity(self) -> Iterator[Finding]:
        try:
            self.identity = read_identity(self.directory)
        except ConfigError as error:
            yield Finding("node.json", _sentence(error, self.directory))
        else:
            if self.identity is None:
                yield Finding("node.json", "is missing: nothing says whose this folder is")
        identity = self.identity
        if identity is not None and identity.state is not IdentityState.MEMBER:
            yield Finding(
                "node.json", f"the node's state is {identity.state}", is_problem=False
            )
        if identity is None or identity.state is not IdentityState.JOINING:
            try:
                load_secrets(self.directory)
            except ConfigError as error:
                yield Finding("secrets.json", _sentence(error, self.directory))
        if self.directory.exists(_LAYOUT):
            try:
                decode_layout(read_file(self.directory, _LAYOUT))
            except CorruptData as error:
                yield Finding(_LAYOUT, str(error))

    def _may_be_absent(self) -> bool:
        """Whether the node has never run, so that log and store need not be there."""
        identity = self.identity
        return identity is not None and (
            identity.state in _NEWCOMERS or identity.start_count == 0
        )

    # ---- the log ----------------------------------------------------------------------

    def _check_log(self) -> Iterator[Finding]:
        try:
            folder = self.directory.folder("wal")
            found = wal.check(folder)
        except FileNotFoundError:
            is_problem = not self._may_be_absent()
            yield Finding("wal", "is missing: the node's votes are gone", None, is_problem)
            return
        except (CorruptData, OSError) as error:
            yield Finding("wal", str(error))
            return
        self._has_log = True
        self._groups = found.groups
        names = folder.names()
        self.counts.log_segments = sum(name.startswith("segment-") for name in names)
        self.counts.log_entries = sum(
            entry is not None
            for group in found.groups.values()
            for entry in group.entries.values()
        )
        for finding in found.findings:
            yield _of_log(finding)
        for name in names:
            if name.startswith("damaged-"):
                reason = "was put aside by an earlier start, as damaged"
                yield Finding(f"wal/{name}", reason, is_problem=False)

    # ---- metadata ---------------------------------------------------------------------

    def _check_store(self) -> Iterator[Finding]:
        try:
            store = self.open_store(self.directory)
        except FileNotFoundError:
            is_problem = not self._may_be_absent()
            yield Finding("meta", "is missing: the metadata is gone", None, is_problem)
            return
        except (CorruptData, OSError) as error:
            yield Finding("meta", str(error))
            return
        self._has_store = True
        generations: dict[bytes, bytes] = {}
        yield from self._check_local_rows(store, generations)
        for number in range(SLOT_COUNT + 1):
            yield from self._check_slot(store, Slot(number), generations)
        yield from self._check_index(store)

    def _check_local_rows(
        self, store: View, generations: dict[bytes, bytes]
    ) -> Iterator[Finding]:
        start = schema.LOCAL_PREFIX
        try:
            for key, value in store.scan(start, schema.LOCAL_END):
                self.counts.rows += 1
                try:
                    self._take_local(key, schema.unseal(key, value), generations)
                except CorruptData as error:
                    yield Finding("meta", str(error))
        except (CorruptData, OSError) as error:
            self._has_store = False  # What is not known must not be judged.
            yield Finding("meta", str(error))
        self.counts.shards = len(self._progress)

    def _take_local(
        self, key: bytes, payload: bytes, generations: dict[bytes, bytes]
    ) -> None:
        if key.startswith(local.APPLIED_PREFIX):
            self._progress[local.group_of_applied(key)] = local.unpack_progress(payload)
        elif key.startswith(local.SLOT_PREFIX):
            generation, _group = local.unpack_slot(payload)
            generations[schema.slot_prefix(local.slot_of_key(key))] = generation

    def _check_slot(
        self, store: View, slot: Slot, generations: dict[bytes, bytes]
    ) -> Iterator[Finding]:
        """Verify a slot's rows; recount it unless that would only repeat what is known."""
        prefix = schema.slot_prefix(slot)
        rows = _SlotRows(store, prefix, generations.get(prefix))
        try:
            wrong = audit.audit_slot(rows.sound())
        except (CorruptData, OSError) as error:
            yield Finding("meta", f"slot {slot}: {error}")
            return
        except Exception as error:  # A tool for the worst day goes on with the next slot.
            kind = type(error).__name__
            reason = f"slot {slot}: rows that this program cannot read: {kind}: {error}"
            yield Finding("meta", reason)
            return
        self.counts.rows += rows.count
        self.counts.slots += rows.in_force > 0
        for problem in rows.problems:
            yield Finding("meta", problem)
        if not rows.problems:
            for line in wrong:
                yield Finding("meta", f"slot {slot}: {line}")
        if rows.left_over:
            reason = f"slot {slot}: {rows.left_over} rows of an unfinished snapshot"
            yield Finding("meta", reason, is_problem=False)

    def _check_index(self, store: View) -> Iterator[Finding]:
        """The chunk index: it is made from the segments, so damage in it loses nothing."""
        index = chunk_index.Index(store)  # type: ignore[arg-type]  # Only read.
        try:
            drives = index.drives()
            self._known_drives = drives
            for drive in drives:
                for _ in index.segments(drive):
                    self.counts.rows += 1
            yield from self._check_fragment_rows(store, index, drives)
        except (CorruptData, OSError) as error:
            yield Finding("meta", f"chunk index: {error}")

    def _check_fragment_rows(
        self, store: View, index: chunk_index.Index, drives: dict[DriveId, str]
    ) -> Iterator[Finding]:
        for key, _ in store.scan(_FRAGMENT_ROWS, schema.range_end(_FRAGMENT_ROWS)):
            self.counts.rows += 1
            try:
                location = index.get(FragmentId.decode(key[len(_FRAGMENT_ROWS) :]))
            except (CorruptData, AssertionError) as error:
                yield Finding("meta", f"chunk index: {error}")
                continue
            self.counts.indexed_fragments += 1
            if location is not None and location.is_quarantined:
                drive = drives.get(location.drive, location.drive)
                yield Finding(
                    f"{drive}/{segment_name(location.segment)}",
                    "a fragment here was found damaged while the node ran",
                    location.place,
                    is_problem=False,
                )

    # ---- log and metadata together ----------------------------------------------------

    def _compare(self) -> Iterator[Finding]:
        """Find what a start would not trust (raft.recovery)."""
        for number, group in sorted(self._groups.items()):
            if group.is_tombstone:
                continue
            progress = self._progress.get(number) or local.nothing()
            damage = restore(group, progress.applied).hard_state.damage
            if damage > Damage.NEW:
                yield Finding(
                    "wal",
                    f"shard {number}: log and metadata do not add up"
                    f" ({_DAMAGES[damage]}): this replica does not vote until the others"
                    " have mended it",
                )
        for number in sorted(self._progress.keys() - self._groups.keys()):
            yield Finding("wal", f"shard {number} has metadata and no record in the log")

    # ---- drives -----------------------------------------------------------------------

    def _named_drives(self) -> list[str]:
        own = [f"{self.directory.path}/chunks"] if self.directory.exists("chunks") else []
        return list(dict.fromkeys([*self.drives, *own]))

    def _check_drive(self, path: str) -> Iterator[Finding]:
        result = DriveCheck(identity=None)
        try:
            directory = self.open_drive(path)
            for problem in check_drive(directory, result):
                of = "" if problem.fragment is None else f"fragment {problem.fragment}: "
                file = f"{path}/{problem.segment}"
                yield Finding(file, f"{of}{problem.reason}", problem.offset)
        except ConfigError as error:
            yield Finding(path, _sentence(error, self.directory))
            return
        except OSError as error:
            yield Finding(path, f"cannot be read: {error.strerror or error}")
            return
        self.counts.drives.append(result)
        found, identity = result.identity, self.identity
        if found is None or identity is None:
            return
        if (found.node, found.cluster) != (identity.node, identity.cluster):
            yield Finding(
                f"{path}/drive.json",
                f"drive {found.drive} belongs to node {found.node} of cluster"
                f" {found.cluster}, this is node {identity.node} of {identity.cluster}",
            )


_DAMAGES = {
    Damage.LOG: "entries are gone that it may have acknowledged",
    Damage.VOTE: "its vote is gone too",
}


@attrs.define
class _SlotRows:
    """The rows of a slot, of all generations, verified on the way."""

    store: View
    prefix: bytes
    generation: bytes | None  # That in force; None: the slot should have no rows.
    count: int = 0
    in_force: int = 0
    left_over: int = 0
    problems: list[str] = attrs.field(factory=list)

    def sound(self) -> Iterator[tuple[bytes, bytes]]:
        """(logical key, sealed value) of the generation in force, those that verify."""
        for key, value in self.store.scan(self.prefix, schema.range_end(self.prefix)):
            self.count += 1
            logical = schema.logical(key)
            try:
                schema.unseal(logical, value)
            except CorruptData as error:
                self.problems.append(str(error))
                continue
            if key[2:6] == self.generation:
                self.in_force += 1
                yield logical, value
            else:
                self.left_over += 1


def _of_log(finding: wal.Finding) -> Finding:
    file = f"wal/{finding.segment}"
    whose = "" if finding.group is None else f" of shard {finding.group}"
    match finding.kind:
        case "cut":
            reason = "the unfinished write of a crash: a start cuts it off"
            return Finding(file, reason, finding.offset, is_problem=False)
        case "missing":
            return Finding(file, "records before these are gone, or its header is damaged")
        case _:
            count = f"{finding.records} records" if finding.records else "records"
            return Finding(file, f"{count}{whose} do not verify", finding.offset)


def _sentence(error: ConfigError, directory: Directory) -> str:
    """The error's sentence without the folder that it begins with."""
    text = str(error).removeprefix(directory.path).lstrip("/")
    for name in ("node.json", "secrets.json"):
        text = text.removeprefix(name)
    return text.lstrip(": ").partition(" hint: ")[0]
