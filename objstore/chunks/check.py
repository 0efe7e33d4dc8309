"""Offline verification of a drive folder: every record, every block; nothing is changed.

For `objstore check DATA_DIR`, on a node that is stopped.  Reads the segments alone, so it
works where the index is lost, and says what a start would make of them:

    live        complete, and every block verifies
    dead        deleted, or its writer did not commit
    damaged     a trailer, table or block that does not verify
    junk        bytes that no header explains
"""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from objstore.chunks import segment as seg
from objstore.chunks.format import SEGMENT_HEADER_SIZE
from objstore.chunks.identity import DriveIdentity, read_identity
from objstore.chunks.segment import Found, Junk, RecordFound
from objstore.host.disk import Directory, File
from objstore.ids import FragmentId


@attrs.frozen
class Problem:
    """Something that a person may want to know."""

    segment: str  # File name.
    offset: int
    reason: str
    fragment: FragmentId | None = None


@attrs.define
class DriveCheck:
    """What was found on one drive."""

    identity: DriveIdentity | None
    segments: int = 0
    live: int = 0
    live_size: int = 0  # Bytes of payload.
    dead: int = 0
    damaged: int = 0
    junk_size: int = 0

    @property
    def is_sound(self) -> bool:
        return self.damaged == 0 and self.junk_size == 0


def check_drive(directory: Directory, result: DriveCheck) -> Iterator[Problem]:
    """Verify all records of a drive folder; fills `result` on the way.

    Blocks for as long as reading the whole drive takes; each step reads one record.
    Raises DriveRefused for a damaged identity, OSError.
    """
    identity = read_identity(directory)
    result.identity = identity
    if identity is None:
        yield Problem("drive.json", 0, "there is no identity file: not a drive folder")
        return
    numbers = sorted(
        n for name in directory.names() if (n := seg.number_of(name)) is not None
    )
    for number in numbers:
        result.segments += 1
        file = directory.open(seg.segment_name(number), write=False)
        try:
            yield from _check_segment(file, identity, seg.segment_name(number), result)
        finally:
            file.close()


def _check_segment(
    file: File, identity: DriveIdentity, name: str, result: DriveCheck
) -> Iterator[Problem]:
    nonce = seg.read_nonce(file, drive=identity.drive)
    if nonce is None:
        result.damaged += 1
        yield Problem(name, 0, "the segment's header is damaged, or of another drive")
        return
    for found in seg.scan(file, nonce=nonce, start=SEGMENT_HEADER_SIZE):
        if isinstance(found, Junk):
            result.junk_size += found.size
            yield Problem(name, found.place, f"{found.size} bytes that no header explains")
        elif found.kind in {RecordFound.DEAD, RecordFound.INCOMPLETE}:
            result.dead += 1
        else:
            yield from _check_record(file, nonce, name, found, result)


def _check_record(
    file: File, nonce: bytes, name: str, found: Found, result: DriveCheck
) -> Iterator[Problem]:
    header = found.fragment
    damage = seg.first_damage(
        file, header.fragment, nonce=nonce, place=found.place, extent=found.header.extent
    )
    if damage is None:
        result.live += 1
        result.live_size += header.payload_size
    else:
        result.damaged += 1
        yield Problem(name, found.place, damage.reason, header.fragment)
