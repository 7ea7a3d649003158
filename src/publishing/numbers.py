"""Numbers about publishing, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge

from src.publishing.gate import CAUSES
from src.publishing.version_format import Manifest


class PublishingNumbers:
    """How many versions were published, refused or not written, and which is the newest.

    Args:
        registry: Where its numbers are registered.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"online_train_versions_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"online_train_version_{name}", text, registry=registry)

        self._published = counter("published", "Versions published by this process", "kind")
        self._bytes = counter("published_bytes", "Bytes of these versions")
        self._refused = counter("refused", "Versions that the gate has refused", "cause")
        for cause in CAUSES:
            self._refused.labels(cause)  # 0 and not absent
        self._failed = counter("failed", "Versions that could not be written")
        self._step = gauge("step", "Step of the newest version; 0 before the first")
        self._at = gauge("timestamp_seconds", "When it was published")

    def on_published(self, manifest: Manifest) -> None:
        """Counts a version."""
        self._published.labels(manifest.kind).inc()
        self._bytes.inc(sum(entry.bytes for entry in manifest.files.values()))
        self._step.set(manifest.version)
        self._at.set(manifest.published_ms / 1000)

    def on_refused(self, cause: str) -> None:
        """Counts a version that the gate has refused; the cause is one of ``gate.CAUSES``."""
        self._refused.labels(cause).inc()

    def on_failed(self) -> None:
        """Counts a version that could not be written."""
        self._failed.inc()
