"""Metrics for autoscalers and operators, beside BentoML's own metrics of requests."""

import os
import threading
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

from sd_inpaint.engine.lifecycle import Engine

SAMPLE_SECONDS = 1.0


@cache
def _metrics() -> tuple[Any, Any, Any]:
    """Makes the metrics, once a process: BentoML sets up prometheus_client only after it has imported the service."""
    from prometheus_client import Counter as Count
    from prometheus_client import Gauge

    # Each worker process has its own device loop; the figures of a dead one do not count.
    seconds = Gauge(
        "sd_inpaint_queue_seconds",
        "Seconds of work waiting or running, at the device's measured pace",
        multiprocess_mode="livesum",
    )
    waiting = Gauge("sd_inpaint_queue_jobs", "Canvases waiting or running", multiprocess_mode="livesum")
    ended = Count("sd_inpaint_jobs", "Canvases that ended, by outcome: done, or an error's code", ["outcome"])
    return seconds, waiting, ended


def _forget_the_dead() -> None:
    """Drops the gauges of worker processes that were killed: they would count for as long as the server lives."""
    from prometheus_client.multiprocess import mark_process_dead

    folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    for path in Path(folder).glob("gauge_live*_*.db") if folder else ():
        process = path.stem.rpartition("_")[2]
        try:
            os.kill(int(process), 0)
        except ProcessLookupError:
            mark_process_dead(process)  # type: ignore[no-untyped-call]  # prometheus_client has no types here
        except OSError:
            continue  # it lives, under another user


class QueueMetrics:
    """Copies the engine's figures into the metrics every second, in a thread that ends with the process."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._counted: Counter[str] = Counter()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._live, name="queue-metrics", daemon=True)

    def start(self) -> None:
        """Starts to sample."""
        _forget_the_dead()
        self._thread.start()

    def stop(self) -> None:
        """Takes the last sample; may be called again."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _live(self) -> None:
        while not self._stop.wait(SAMPLE_SECONDS):
            self.sample()
        self.sample()

    def sample(self) -> None:
        """Copies the figures now."""
        seconds, waiting, ended = _metrics()
        seconds.set(self._engine.waiting_seconds)
        waiting.set(self._engine.waiting_canvases)
        outcomes = Counter(self._engine.outcomes)
        for outcome, count in (outcomes - self._counted).items():
            ended.labels(outcome).inc(count)
        self._counted = outcomes
