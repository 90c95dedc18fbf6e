"""The metrics of a server, for Prometheus."""

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

CONTENT_TYPE = CONTENT_TYPE_LATEST
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """Counters, gauges and histograms of one server; `s2s_` comes before each name."""

    def __init__(self):
        disable_created_metrics()
        self.registry = CollectorRegistry()
        own = {"namespace": "s2s", "registry": self.registry}
        self.requests = Counter(
            "requests", "translation requests by status; 499: the client left or was too slow", ["status"], **own
        )
        self.errors = Counter("errors", "translation requests that were not answered with 200", **own)
        self.request_seconds = Counter("request_seconds", "seconds that translation requests took", **own)
        self.latency = Histogram(
            "request_duration_seconds", "from a request's header to its answer", buckets=SECONDS, **own
        )
        self.queue = Histogram("queue_seconds", "from a request's tokens to its first batch", buckets=SECONDS, **own)
        self.in_flight = Gauge("requests_in_flight", "translation requests that are not answered yet", **own)
        self.connections = Gauge("connections", "open connections", **own)
        self.waiting = Gauge("waiting_lines", "lines that wait to be decoded", **own)
        self.batches = Counter("batches", "batches decoded", **own)
        self.lines = Counter("lines", "lines decoded", **own)
        self.failed_lines = Counter("failed_lines", "lines whose decoding failed", **own)
        self.source_tokens = Counter("source_tokens", "tokens of their sources", **own)
        self.target_tokens = Counter("target_tokens", "tokens of their best translations", **own)
        self.decoding_seconds = Counter("decoding_seconds", "seconds spent decoding", **own)

    def value(self, name: str) -> float:
        """The value of a metric without labels, by its name in `text` without `s2s_`."""
        return self.registry.get_sample_value(f"s2s_{name}") or 0.0

    def text(self) -> bytes:
        """All metrics in the text format of Prometheus."""
        return generate_latest(self.registry)
