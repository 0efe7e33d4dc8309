"""Every bound of the system, one sentence each on why this number.

What an operator may change is in `config`; what is here is part of a format or a
protocol, or a bound that nobody should need to touch.
"""

from __future__ import annotations

from objstore.units import GiB, KiB, MiB, TiB

# S3's own limits (Amazon S3 User Guide, "Multipart upload limits", "Object keys").
KEY_SIZE_MAX = 1024
BUCKETS_MAX = 10_000
PART_NUMBER_MAX = 10_000
PART_SIZE_MIN = 5 * MiB  # All parts but the last.
PART_SIZE_MAX = 5 * GiB
PUT_SIZE_MAX = 5 * GiB
COPY_SIZE_MAX = 5 * GiB
OBJECT_SIZE_MAX = 50_000 * GiB  # 10,000 parts of 5 GiB: the "48.8 TiB" of the guide.
LIST_PAGE_MAX = 1000
DELETE_OBJECTS_MAX = 1000
USER_METADATA_SIZE_MAX = 2 * KiB

# Metadata's shape: part of the format (DESIGN 4).
SLOT_COUNT = 4096
SHARD_COUNT = 32  # Object shards at birth; the cluster shard is one more.
BUCKET_SPAN = 4  # Slots a bucket's keys spread over, at birth.
VOTERS_MAX = 5

# A Raft entry: 16 KiB inline objects and 10,000 part numbers fit with room to spare.
ENTRY_SIZE_MAX = 1 * MiB
INLINE_SIZE_LIMIT = 256 * KiB  # What `meta.inline_size_max` may be set to at most.
REQUEST_ID_KEPT_MS = 15 * 60_000  # Longer than any client's deadline for one retry loop.
INTENT_LIFE_MS = 15 * 60_000  # A writer renews at a third of it.
COMPLETION_KEPT_MS = 24 * 3_600_000  # A repeated completion is answered so long.
DROPPED_FENCE_KEPT_MS = 24 * 3_600_000  # No delayed OpenBucket is older than that.
PURGE_ROWS_MAX = 64  # Rows one step of a purge looks at: about a millisecond.
PURGE_CHUNKS_MAX = 512  # Chunks one such step releases.
CLUSTER_CHANGES_KEPT = 10_000  # Deleted rows the cluster shard remembers for the views.
CLUSTER_DELTA_SIZE = 1 * MiB  # Rows of one answer to a view; more are asked for again.

# Reports of damage waiting to be recorded; what is dropped is found again by a read.
DAMAGE_REPORTS_MAX = 10_000
# Chunks, nodes and rows that repair leaves alone for a while; the forgotten are tried anew.
REPAIR_FAILURES_KEPT = 10_000
RELEASED_CONFIRMED_MAX = 50_000  # Rows whose holders have not all confirmed a deletion.

# Bytes on drives.
BLOCK_SIZE = 1 * MiB  # One rpc frame each.
# What is read and verified for a small range: a larger one is read for nothing mostly, a
# smaller one costs more calls than bytes.
PIECE_SIZE = 128 * KiB
CHUNK_SIZE_MAX = 1 * GiB
FRAGMENTS_MAX = 256  # The fragment number is one byte.
RECORD_ALIGNMENT = 4 * KiB  # Records start at page boundaries, so a scan can resync.
WRITE_SESSIONS_MAX = 1024  # Fragments that peers write here at once; a few KiB each.

# Every node holds all access keys in memory: a few MiB.
ACCESS_KEYS_MAX = 10_000

# Node to node.
FRAME_SIZE_MAX = 4 * MiB  # A block, or a batch of Raft messages, with headers.
FRAME_HEADER_SIZE_MAX = 64 * KiB
CALLS_IN_FLIGHT_MAX = 1024  # Per link and direction; more waits.
PACKET_SIZE_MAX = 1400  # Gossip stays under one Ethernet frame.
SNAPSHOT_PIECE_SIZE = 256 * KiB

# The host.
POOL_THREADS_MAX = 16  # Blocked in disk reads mostly; more only fight for the interpreter.
ACCEPT_BACKLOG = 1024  # A herd of reconnecting clients fits; the kernel caps it as well.

# HTTP (FAULTS 4): what h11 alone would let pass.
HTTP_HEAD_SIZE_MAX = 32 * KiB  # 16 KiB of headers, and room for a presigned target.
HTTP_HEADERS_MAX = 100
HTTP_TRAILERS_SIZE_MAX = 4 * KiB
HTTP_READ_SIZE = 64 * KiB
HTTP_BODY_READ_SIZE = 256 * KiB  # A socket's worth of an upload in one system call.
HTTP_SEND_SIZE = 256 * KiB  # One write deadline each: the slowest reader that is served.
HTTP_JOIN_SIZE_MAX = 64 * KiB  # Head and body up to this leave in one send.
HTTP_CHUNK_SIZE_MAX = 5 * GiB  # Of one piece of a chunked body: S3's largest PUT.
HTTP_CHUNK_LINE_MAX = 256  # A size and an extension; nobody sends more.
# Chunks of a body, HTTP's or aws-chunked's: a few may have any size, many must be worth
# their parsing.  A flood of one-byte chunks costs us a second for each of its megabytes.
CHUNKS_OF_ANY_SIZE_MAX = 1024
CHUNK_SIZE_MEAN_MIN = 128
HTTP_CHUNK_EXTENSIONS_MAX = 16 * KiB  # Of a whole body: they are only dropped.
HTTP_DRAIN_SIZE_MAX = 1 * MiB  # Of an unread body, to keep the connection or be heard.
HTTP_BUFFERED_ANSWER_MAX = 4 * MiB  # An answer of unknown length, for an HTTP/1.0 client.
HTTP_BODY_RATE_MIN = 1 * KiB  # Bytes a second of a body's sender, after a grace.
# A signed chunk is held until its signature is verified; SDKs send 64 KiB to 1 MiB.
AWS_CHUNK_SIZE_MAX = 4 * MiB
XML_SIZE_MAX = 1 * MiB
XML_LARGE_SIZE_MAX = 4 * MiB  # DeleteObjects and CompleteMultipartUpload.
XML_DEPTH_MAX = 16
XML_ATTRIBUTES_MAX = 16  # Of one element; S3 has two: xmlns and xsi:type.
XML_ELEMENTS_MAX = 100_000  # 10,000 parts with number, etag and every checksum.
# A tag and the text after it, at least; a key whose every byte is escaped needs 6 KiB.
XML_RUN_MAX = 8 * KiB

assert BLOCK_SIZE + FRAME_HEADER_SIZE_MAX <= FRAME_SIZE_MAX
assert ENTRY_SIZE_MAX + FRAME_HEADER_SIZE_MAX <= FRAME_SIZE_MAX
assert INLINE_SIZE_LIMIT * 2 <= ENTRY_SIZE_MAX
assert SHARD_COUNT <= SLOT_COUNT
assert PART_NUMBER_MAX * PART_SIZE_MAX <= OBJECT_SIZE_MAX < 49 * TiB
