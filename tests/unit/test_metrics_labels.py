"""Metrics are open to whoever can reach the port: their labels name nothing of a user's."""

from objstore import metrics

ALLOWED = {
    "operation", "status", "direction", "state", "method", "outcome", "drive", "kind", "phase",
    "reason", "message", "outcome", "le", "decision", "cause",
}  # fmt: skip


def test_labels_come_from_small_closed_sets() -> None:
    for collector in metrics.REGISTRY._collector_to_names:
        labels = set(getattr(collector, "_labelnames", ()))
        assert labels <= ALLOWED, (collector, labels)
    for metric in metrics.S3.describe():
        assert set(metric._labelnames) <= ALLOWED, metric
