"""Prometheus metrics of a coordinator, on a listener of their own that no hospital can reach."""

from __future__ import annotations

from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from wardround.core.errors import Fault, InputError, StorageError
from wardround.runtimes.https.store import Store

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """Counters of one server."""

    def __init__(self, store: Store) -> None:
        self.registry = CollectorRegistry()
        names = ["endpoint", "status"]
        self.requests = Counter("wardround_requests", "Requests answered", names, registry=self.registry)
        self.seconds = Histogram(
            "wardround_request_seconds",
            "Time to answer, without the waiting of long polls",
            ["endpoint"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.refusals = Counter("wardround_refusals", "Requests refused, by reason", ["code"], registry=self.registry)
        self.received = Counter("wardround_received_bytes", "Bytes of tensors received", registry=self.registry)
        self.sent = Counter("wardround_sent_bytes", "Bytes of tensors sent", registry=self.registry)
        self.polls = Gauge("wardround_open_polls", "Sites that wait for something to do", registry=self.registry)
        self.registry.register(_State(store))

    def listen(self, address: str) -> WSGIServer:
        """Serve ``/metrics`` at HOST:PORT until the returned server is shut down. Raises InputError, StorageError."""
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit():
            raise InputError("not an address", [Fault("--metrics", "must be HOST:PORT, as 127.0.0.1:9108")])
        try:
            server, _ = start_http_server(int(port), host.strip("[]"), self.registry)
        except OSError as error:
            raise StorageError(f"cannot listen at {address} for metrics: {error.strerror}") from error
        return server


class _State(Collector):
    """What the database says, when it is asked."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def collect(self) -> list[GaugeMetricFamily]:
        """See `prometheus_client`."""
        runs = GaugeMetricFamily("wardround_runs", "Runs, by state", labels=["state"])
        states = [run.state for run in self._store.runs()]
        for state in sorted(set(states)):
            runs.add_metric([state], states.count(state))
        seen = GaugeMetricFamily("wardround_site_seen_seconds", "Unix time of a site's last request", labels=["site"])
        last = self._store.seen()
        for site in self._store.sites():
            if site.active and site.name in last:
                seen.add_metric([site.name], last[site.name][0])
        disk = GaugeMetricFamily("wardround_disk_free_bytes", "Room for blobs", value=self._store.blobs.free())
        return [runs, seen, disk]
