"""Prometheus metrics. Label values come from fixed sets, never from a request."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)


class Metrics:
    """All metrics of one process, in a registry of their own so that tests do not share them."""

    def __init__(self) -> None:
        """Create every metric, so that a scrape shows zeros before the first request."""
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "kbs_rim_http_requests", "HTTP requests by route, method and status", ["route", "method", "status"], registry=self.registry
        )
        self._latency = Histogram("kbs_rim_http_request_seconds", "Time to answer", ["route"], buckets=_SECONDS, registry=self.registry)
        self._stages = Histogram(
            "kbs_rim_appraisal_stage_seconds", "Time in each stage of an exchange", ["stage"], buckets=_SECONDS, registry=self.registry
        )
        self._verdicts = Counter("kbs_rim_verdicts", "Outcomes of evidence by guest code", ["outcome"], registry=self.registry)
        self._findings = Counter("kbs_rim_findings", "Findings that refused, by id", ["finding"], registry=self.registry)
        self.legacy_rsa1_5 = Gauge("kbs_rim_legacy_rsa1_5_enabled", "1 while RSA1_5 is switched on", registry=self.registry)
        self.test_mode = Gauge("kbs_rim_test_mode_enabled", "1 while published test keys are accepted", registry=self.registry)

    def watch(self, name: str, about: str, value: Callable[[], float]) -> None:
        """Show ``value()`` at each scrape as the gauge ``kbs_rim_<name>``."""
        Gauge(f"kbs_rim_{name}", about, registry=self.registry).set_function(value)

    def observe_request(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count one request; ``route`` is the pattern, not the path."""
        known = method if method in ("GET", "POST", "PUT", "DELETE", "HEAD") else "other"
        self._requests.labels(route, known, str(status)).inc()
        self._latency.labels(route).observe(seconds)

    def observe_stage(self, stage: str, seconds: float) -> None:
        """Record the time of one stage of an exchange."""
        self._stages.labels(stage).observe(seconds)

    def observe_outcome(self, outcome: str, finding_ids: tuple[str, ...] = ()) -> None:
        """Count how evidence ended: ``released`` or the code that the guest was told."""
        self._verdicts.labels(outcome).inc()
        for finding in finding_ids:
            self._findings.labels(finding).inc()

    def render(self) -> bytes:
        """Return the text exposition format."""
        return generate_latest(self.registry)
