"""Recovery: what a start does to bring the index up to date with the segments.

    row of a segment, no file    the index went back to before it was removed: drop the row
    file, row with low water     scan from the low water on (nothing, when sealed and whole)
    file, no row                 scan all of it: the index was lost, or is behind

    found         no row           row here       row elsewhere
    complete      add              keep           keep that one, mark this dead; but where
                                                  that one is gone or quarantined, take this
    dead          -                drop           -
    incomplete    -                keep           -
    damaged       add, quarantined keep           -

Every segment is sealed afterwards.  Rows are written in batches with the segment's
checkpoint, so a start that is interrupted goes on where it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Protocol

from objstore.chunks import segment as seg
from objstore.chunks.format import NONCE_SIZE, SEGMENT_HEADER_SIZE
from objstore.chunks.index import Change, Index, Location
from objstore.chunks.segment import Found, Junk, RecordFound, Segment
from objstore.host.disk import Directory, File
from objstore.ids import DriveId, FragmentId

RECORDS_AT_ONCE = 256  # Per hop to a thread and per batch of rows.
