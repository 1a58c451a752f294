"""Export the live metrics of a run through Ray, which serves them to Prometheus."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from ray.util.metrics import Counter, Gauge

from orchestrator.monitoring.metrics import MetricType, live_metric
from orchestrator.monitoring.tally import Reading

REFRESH_S = 5.0
"""Ray drops a gauge 20 s after its last `set`, and the driver may wait several seconds for Ray."""

_log = logging.getLogger(__name__)


@dataclass
class Exporter:
    """Sets Ray's gauges and counters. An error of Ray ends the export, never the run."""

    clock: Callable[[], float] = time.monotonic
    _metrics: dict[str, Gauge | Counter] = field(default_factory=dict)
    _counted: dict[tuple[str, frozenset[tuple[str, str]]], float] = field(default_factory=dict)
    """The total of each counter that Ray has."""
    _due_s: float = 0.0
    _has_failed: bool = False

    @property
    def is_due(self) -> bool:
        return not self._has_failed and self.clock() >= self._due_s

    def export(self, readings: Iterable[Reading]) -> None:
        """Give the values to Ray, which exports them within 10 s, or when this process ends."""
        self._due_s = self.clock() + REFRESH_S
        try:
            for reading in readings:
                self._set(reading)
        except Exception as err:  # noqa: BLE001  nothing of Ray's metrics is worth a training
            self._has_failed = True
            _log.warning("live metrics are not exported any more: %s: %s", type(err).__name__, err)

    def _set(self, reading: Reading) -> None:
        metric, tags = self._metric(reading.name), dict(reading.tags)
        if isinstance(metric, Gauge):
            metric.set(reading.value, tags=tags)
            return
        key = (reading.name, frozenset(tags.items()))
        before = self._counted.get(key)
        if before is None or reading.value > before:
            # Not `inc`, which refuses 0. Without a first value of 0, Prometheus would not see the
            # first increase. Ray's recorder takes 0 and exports it.
            metric._record(reading.value - (before or 0.0), tags=tags)
            self._counted[key] = reading.value

    def _metric(self, name: str) -> Gauge | Counter:
        if name not in self._metrics:
            live = live_metric(name)
            make = Counter if live.type is MetricType.COUNTER else Gauge
            self._metrics[name] = make(live.ray_name, description=live.help, tag_keys=live.tags)
        return self._metrics[name]
