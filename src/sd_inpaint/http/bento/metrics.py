"""The gauges, which a thread copies from what they show, beside BentoML's own metrics of requests."""

import logging
import os
import threading
from collections import Counter
from pathlib import Path

from sd_inpaint.condition import PROBLEMS, Condition
from sd_inpaint.engine.lifecycle import EngineState
from sd_inpaint.jobs.job import JobState
from sd_inpaint.jobs.runner import JobRunner
from sd_inpaint.painter import Painter
from sd_inpaint.telemetry.metrics import (
    ACCEPTED_JOBS,
    CANVASES_ENDED,
    DEVICE_BYTES,
    DEVICES,
    HELD_BYTES,
    MAX_BYTES,
    PROBLEM,
    QUEUE_CANVASES,
    QUEUE_SECONDS,
    READY,
    RESIDENT_BYTES,
    STATE_BYTES,
    STATE_FREE_BYTES,
    STATE_MAX_BYTES,
    TURN_AGE_SECONDS,
)
from sd_inpaint.work.memory_budget import MemoryBudget, resident_bytes

SAMPLE_SECONDS = 1.0

DISK_SAMPLES = 10
"""The state folder may have thousands of files: it is looked at every so many samples."""

logger = logging.getLogger("bentoml.sd_inpaint.http")


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


class Gauges:
    """Copies figures into the metrics every second, in a thread that ends with the process.

    Args:
        painter: Whose engine and device are shown.
        runner: Whose jobs are shown.
        budget: Whose bytes are shown.
        condition: What is wrong; has its disk looked at here, where a disk that hangs holds up nobody.
    """

    def __init__(self, painter: Painter, runner: JobRunner, budget: MemoryBudget, condition: Condition) -> None:
        self._painter = painter
        self._runner = runner
        self._budget = budget
        self._condition = condition
        self._counted: Counter[str] = Counter()
        self._samples = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._live, name="metrics", daemon=True)

    def start(self) -> None:
        """Starts to sample."""
        _forget_the_dead()
        self._thread.start()

    def stop(self) -> None:
        """Takes the last sample; may be called again."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(SAMPLE_SECONDS)

    def _live(self) -> None:
        while not self._stop.wait(SAMPLE_SECONDS if self._samples else 0):
            self._try_sample()
        self._try_sample()

    def _try_sample(self) -> None:
        try:
            self.sample()
        except Exception:
            logger.exception("The metrics could not be read; they are tried again.")

    def sample(self) -> None:
        """Copies the figures now."""
        if self._samples % DISK_SAMPLES == 0:
            self._condition.look_at_disk()
        self._samples += 1
        self._sample_engine()
        self._sample_memory()
        wrong = {problem.code for problem in self._condition.problems()}
        for code in PROBLEMS:
            PROBLEM.set(code in wrong, code)
        if (space := self._condition.space) is not None:
            STATE_BYTES.set(space.used_bytes)
            STATE_MAX_BYTES.set(space.max_bytes)
            STATE_FREE_BYTES.set(space.free_bytes)
        states = self._runner.states()
        for state in (JobState.QUEUED, JobState.RUNNING, JobState.FINISHING):
            ACCEPTED_JOBS.set(states[state], state)

    def _sample_engine(self) -> None:
        engine = self._painter.engine
        READY.set(engine.state is EngineState.READY)
        DEVICES.set(engine.devices, "working")
        DEVICES.set(engine.lost_devices, "lost")
        TURN_AGE_SECONDS.set(engine.turn_age_seconds)
        QUEUE_SECONDS.set(engine.waiting_seconds)
        QUEUE_CANVASES.set(engine.waiting_canvases)
        outcomes = Counter(engine.outcomes)
        for outcome, count in (outcomes - self._counted).items():
            CANVASES_ENDED.add(count, outcome)
        self._counted = outcomes

    def _sample_memory(self) -> None:
        budget = self._budget
        RESIDENT_BYTES.set(resident_bytes())
        for name, pool in (("uploads", budget.uploads), ("pictures", budget.pictures), ("all", budget)):
            HELD_BYTES.set(pool.held_bytes, name)
            MAX_BYTES.set(pool.max_bytes, name)
        for kind, size in (self._painter.device_memory() or {}).items():
            DEVICE_BYTES.set(size, kind)
