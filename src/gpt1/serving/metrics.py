"""Metrics for Prometheus: requests, their time, tokens, and the state of the engine."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gpt1.serving.engine import Engine

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """The metrics of one server."""

    def __init__(self, engine: Engine) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_EngineMetrics(engine))
        self.requests = Counter(
            "gpt1_requests", "Requests answered.", ["method", "route", "status"], registry=self._registry
        )
        self.seconds = Histogram(
            "gpt1_request_seconds", "Seconds from a request's head to the end of its answer.", ["route"],
            buckets=SECONDS, registry=self._registry,
        )  # fmt: skip
        self.first_token_seconds = Histogram(
            "gpt1_first_token_seconds", "Seconds from a streamed request to its first token.",
            buckets=SECONDS, registry=self._registry,
        )  # fmt: skip
        self.total = 0
        """requests answered so far"""

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request that was answered."""
        self.total += 1
        self.requests.labels(method, route, str(status)).inc()
        self.seconds.labels(route).observe(seconds)

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._registry)


class _EngineMetrics(Collector):
    """What the engine itself counts."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        yield CounterMetricFamily("gpt1_generated_tokens", "Tokens generated.", self._engine.tokens)
        yield GaugeMetricFamily("gpt1_generating", "Texts that are being generated.", self._engine.generating)
        yield GaugeMetricFamily("gpt1_waiting", "Texts and requests that wait.", self._engine.waiting)
