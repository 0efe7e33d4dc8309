"""Every metric: name, unit, labels, help.

Names are `objstore_<package>_<what>_<unit>`; base units are seconds and bytes; labels
come from small closed sets, never a key or a bucket.  A package adds its own here,
under its heading; docs/reference/metrics.md has a line for each and a test compares.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.utils import floatToGoString

disable_created_metrics()  # type: ignore[no-untyped-call]  # Half of the lines otherwise.
REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)  # process_*: memory, CPU, open files, start time.

_LATENCY_BUCKETS = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30,
)  # fmt: skip


def _counter(name: str, text: str, *labels: str) -> Counter:
    return Counter(name, text, labels, registry=REGISTRY)


def _gauge(name: str, text: str, *labels: str) -> Gauge:
    return Gauge(name, text, labels, registry=REGISTRY)


def _histogram(name: str, text: str, *labels: str) -> Histogram:
    return Histogram(name, text, labels, registry=REGISTRY, buckets=_LATENCY_BUCKETS)


class RequestCounts:
    """What is counted for every request: plain numbers, made metrics when they are asked.

    Only the event loop counts.  A metric of prometheus_client's own takes a lock each
    time, and looks for what we have not; five a request cost as much as its routing.
    """

    def __init__(self) -> None:
        self.in_flight = 0
        self.received = 0  # Bytes of bodies.
        self.sent = 0
        # By operation and status: bounded by S3's.
        self._requests: dict[tuple[str, int], _Durations] = {}

    def count(self, operation: str, status: int, duration_s: float) -> None:
        """Count a request that is over."""
        durations = self._requests.get((operation, status))
        if durations is None:
            durations = self._requests[operation, status] = _Durations()
        durations.observe(duration_s)

    def describe(self) -> Iterator[Metric]:
        """The metrics, without samples: what a registry asks for once."""
        yield from _families()

    def collect(self) -> Iterator[Metric]:
        """The metrics as they stand."""
        requests, seconds, in_flight, size = _families()
        of_operation: dict[str, _Durations] = {}
        for (operation, status), durations in sorted(self._requests.items()):
            requests.add_metric((operation, str(status)), sum(durations.counts))
            of_operation.setdefault(operation, _Durations()).add(durations)
        for operation, durations in of_operation.items():
            seconds.add_metric((operation,), durations.buckets(), durations.total_s)
        in_flight.add_metric((), self.in_flight)
        size.add_metric(("received",), self.received)
        size.add_metric(("sent",), self.sent)
        yield from (requests, seconds, in_flight, size)


class _Durations:
    """Of requests alike."""

    def __init__(self) -> None:
        self.counts = [0] * (len(_LATENCY_BUCKETS) + 1)  # A bucket each; the last: above.
        self.total_s = 0.0

    def observe(self, duration_s: float) -> None:
        self.counts[bisect_left(_LATENCY_BUCKETS, duration_s)] += 1
        self.total_s += duration_s

    def add(self, other: _Durations) -> None:
        self.counts = [a + b for a, b in zip(self.counts, other.counts, strict=True)]
        self.total_s += other.total_s

    def buckets(self) -> list[tuple[str, int]]:
        bounds = (*map(floatToGoString, _LATENCY_BUCKETS), "+Inf")
        return list(zip(bounds, accumulate(self.counts), strict=True))


class LoopHistogram(_Durations):
    """Durations that only the event loop observes, for the same reason."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__()
        self._name, self._text = name, text
        REGISTRY.register(self)

    def describe(self) -> Iterator[Metric]:
        yield HistogramMetricFamily(self._name, self._text)

    def collect(self) -> Iterator[Metric]:
        yield HistogramMetricFamily(
            self._name, self._text, buckets=self.buckets(), sum_value=self.total_s
        )


_Families = tuple[
    CounterMetricFamily, HistogramMetricFamily, GaugeMetricFamily, CounterMetricFamily
]


def _families() -> _Families:
    return (
        CounterMetricFamily(
            "objstore_s3_requests_total",
            "Requests answered.",
            labels=("operation", "status"),
        ),
        HistogramMetricFamily(
            "objstore_s3_request_duration_seconds",
            "From the request's head to the last byte of its answer.",
            labels=("operation",),
        ),
        GaugeMetricFamily(
            "objstore_s3_requests_in_flight", "Requests being served.", labels=()
        ),
        CounterMetricFamily(
            "objstore_s3_body_bytes_total",
            "Body bytes received and sent.",
            labels=("direction",),
        ),
    )


# s3
S3 = RequestCounts()
REGISTRY.register(S3)

# http
HTTP_CONNECTIONS = _gauge("objstore_http_connections", "Client connections open.")
HTTP_EXPIRED = _counter(
    "objstore_http_connections_expired_total", "Cut for being too slow.", "phase"
)
HTTP_EVICTED = _counter(
    "objstore_http_connections_evicted_total",
    "Closed without a request, to make room for others.",
)

# raft
RAFT_COMMIT_SECONDS = LoopHistogram(
    "objstore_raft_commit_duration_seconds", "From proposal to its apply on the leader."
)
RAFT_SYNC_SECONDS = LoopHistogram(
    "objstore_raft_wal_sync_duration_seconds", "One write and fdatasync of the WAL."
)
RAFT_LEADERS = _gauge("objstore_raft_leader_groups", "Groups this node leads.")
RAFT_GROUPS = _gauge("objstore_raft_groups", "Groups this node has a replica of.")
RAFT_TERM_MAX = _gauge("objstore_raft_term_max", "The highest term of any group.")
RAFT_COMMIT_LAG = _gauge(
    "objstore_raft_commit_lag_entries", "Appended but not committed, over led groups."
)
RAFT_APPLY_LAG = _gauge(
    "objstore_raft_apply_lag_entries", "Committed but not applied, over all groups."
)
RAFT_LOG_ENTRIES = _gauge(
    "objstore_raft_log_entries", "In memory for followers to catch up by, over all groups."
)
RAFT_ELECTIONS = _counter("objstore_raft_elections_total", "Elections begun here.")
RAFT_DAMAGED = _gauge(
    "objstore_raft_damaged_groups",
    "Groups whose replica here has lost something, and does not vote until mended.",
)
RAFT_WAL_SLOW = _gauge(
    "objstore_raft_wal_slow",
    "1 where syncs of the log take seconds: this node leads nothing.",
)
RAFT_WAL_FULL = _gauge(
    "objstore_raft_wal_full", "1 where the disk has no room for the log to grow."
)

# meta
META_DIVERGED = _counter(
    "objstore_meta_diverged_replicas_total",
    "Replicas whose hash of changes differs from their leader's.",
)

# gossip
GOSSIP_MEMBERS = _gauge("objstore_gossip_members", "Members by state.", "state")
GOSSIP_HEALTH = _gauge(
    "objstore_gossip_health_score", "Lifeguard's local health: 0 is well, 8 the worst."
)
GOSSIP_DROPPED = _counter(
    "objstore_gossip_dropped_packets_total", "Packets and news not taken.", "reason"
)

# rpc
RPC_CALLS = _counter("objstore_rpc_calls_total", "Calls served.", "method", "outcome")
RPC_CASTS_DROPPED = _counter(
    "objstore_rpc_dropped_casts_total", "One-way messages dropped: link down or full."
)
RPC_EVICTED = _counter(
    "objstore_rpc_connections_evicted_total",
    "Connections without a certificate or hello, closed to make room for others.",
)

# chunks
DRIVE_BYTES = _gauge("objstore_chunks_drive_bytes", "Space of a drive.", "drive", "kind")
DRIVE_FRAGMENTS = _gauge(
    "objstore_chunks_drive_fragments", "Fragments on a drive.", "drive"
)
DRIVE_FENCED = _gauge(
    "objstore_chunks_drive_fenced", "1 where a drive is fenced after an error.", "drive"
)
DRIVE_ERRORS = _counter(
    "objstore_chunks_drive_errors_total", "I/O errors of a drive.", "drive"
)
CHUNKS_SYNC_SECONDS = _histogram(
    "objstore_chunks_sync_duration_seconds", "One group commit of a drive."
)
FRAGMENTS_CORRUPT = _counter(
    "objstore_chunks_corrupt_fragments_total", "Fragments found with a bad checksum."
)

# repair
REPAIR_QUEUE = _gauge(
    "objstore_repair_queue_fragments", "Known fragments waiting to be mended."
)
REPAIR_REBUILT = _counter(
    "objstore_repair_rebuilt_fragments_total", "Fragments made again."
)
REPAIR_FREED = _counter(
    "objstore_repair_freed_fragments_total", "Released fragments deleted."
)

# memory
MEMORY_IN_FLIGHT = _gauge(
    "objstore_memory_in_flight_bytes", "Bytes of bodies held by the memory budget."
)
