"""What is counted for every request, as a scrape shows it."""

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.exposition import generate_latest

from objstore.metrics import _LATENCY_BUCKETS, RequestCounts


def test_requests_are_shown_as_prometheus_own_metrics_show_them() -> None:
    own, reference = CollectorRegistry(), CollectorRegistry()
    counts = RequestCounts()
    own.register(counts)
    requests = Counter(
        "objstore_s3_requests_total",
        "Requests answered.",
        ("operation", "status"),
        registry=reference,
    )
    seconds = Histogram(
        "objstore_s3_request_duration_seconds",
        "From the request's head to the last byte of its answer.",
        ("operation",),
        registry=reference,
        buckets=_LATENCY_BUCKETS,
    )
    edges = [0.0, *_LATENCY_BUCKETS, *(bound + 1e-6 for bound in _LATENCY_BUCKETS)]
    for operation in ("GetObject", "PutObject"):
        for duration_s in edges:
            counts.count(operation, 200, duration_s)
            requests.labels(operation, "200").inc()
            seconds.labels(operation).observe(duration_s)
    counts.count("PutObject", 503, 0.25)
    requests.labels("PutObject", "503").inc()
    seconds.labels("PutObject").observe(0.25)
    shown, expected = generate_latest(own), generate_latest(reference)
    assert shown.startswith(expected)


def test_bytes_and_requests_in_flight_are_plain_numbers() -> None:
    registry, counts = CollectorRegistry(), RequestCounts()
    registry.register(counts)
    counts.in_flight += 2
    counts.received += 10
    counts.sent += 4096
    assert registry.get_sample_value("objstore_s3_requests_in_flight") == 2
    name = "objstore_s3_body_bytes_total"
    assert registry.get_sample_value(name, {"direction": "received"}) == 10
    assert registry.get_sample_value(name, {"direction": "sent"}) == 4096
