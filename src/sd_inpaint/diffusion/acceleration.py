"""Which runners a model gets beside the reference, and when: graphs before it serves, compiled blocks while it does."""

import importlib.util
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from sd_inpaint.diffusion.compiled import Compile, CompiledRunner, compile_block, compile_whole
from sd_inpaint.diffusion.devices import SET, Device
from sd_inpaint.diffusion.graphs import CudaRecorder, GraphRunner, Recorder
from sd_inpaint.diffusion.model import TorchModel
from sd_inpaint.diffusion.runner import Runner, Shape
from sd_inpaint.imaging.grid import STEPS
from sd_inpaint.settings import Settings, cache_folder

logger = logging.getLogger("bentoml.sd_inpaint.acceleration")

GRAPH_SHARE: Final = 0.15
"""Of the memory that is free beside the weights: what graphs may keep. On an 80 GB card all shapes of the grid fit."""

FOLDER_MODE: Final = 0o700
"""What a compiler keeps there is run."""


class Acceleration:
    """Gives a model its runners.

    Args:
        settings: The operator's.
        device: The model's.
        recorder: What records graphs; None takes the device's own, where it has any.
        for_blocks: As :class:`CompiledRunner` takes it.
        find_obstacle: Says what keeps torch from compiling for a kind of device; None where nothing does.

    Attributes:
        graph_bytes: Memory that graphs may keep; 0 where there are none.
    """

    def __init__(
        self,
        settings: Settings,
        device: Device,
        *,
        recorder: Recorder | None = None,
        for_blocks: Compile = compile_block,
        find_obstacle: Callable[[str], str | None] | None = None,
    ) -> None:
        self._settings = settings
        self._device = device
        is_cuda = device.kind == "cuda"
        self._has_graphs = settings.cuda_graphs and (is_cuda or recorder is not None)
        self._recorder = recorder
        self._in_use = threading.Lock()
        self._for_blocks = for_blocks
        self._mode = settings.compile if settings.compile != "auto" else "regional" if is_cuda else "off"
        self._obstacle = None if self._mode == "off" else (find_obstacle or compiler_obstacle)(device.kind)
        self.graph_bytes = int(device.free_bytes() * GRAPH_SHARE) if self._has_graphs else 0

    @property
    def choices(self) -> dict[str, dict[str, object]]:
        """What was chosen and why, for ``/sd-inpaint/info``."""
        is_cuda = self._device.kind == "cuda"
        graphs_reason = (
            SET if is_cuda and not self._has_graphs else "CUDA has them" if is_cuda else "only CUDA has them"
        )
        compile_reason = self._obstacle or (
            SET
            if self._settings.compile != "auto"
            else "on CUDA it gains a fifth to a third"
            if is_cuda
            else "it takes minutes on a CPU"
        )
        mode = "off" if self._obstacle else self._mode
        return {
            "cuda_graphs": {"value": self._has_graphs, "reason": graphs_reason},
            "compile": {"value": mode, "reason": compile_reason},
        }

    def begin(self, model: TorchModel) -> threading.Thread | None:
        """Has the model run by graphs from now on, and begins to compile in a thread of its own.

        Returns:
            The thread; None where nothing is compiled.
        """
        native = Shape(model.sample_size, model.sample_size, model.tokens)
        if self._has_graphs:
            # First without: what a device's libraries do at their first calls would be part of the first capture.
            model.rehearse(native)
            model.use(self._graphed(model.runner))
            model.rehearse(native)
        if self._mode == "off":
            return None
        if self._obstacle:
            logger.warning("Nothing is compiled: %s.", self._obstacle)
            return None
        self._keep_compiled_code()
        shapes = grid_shapes(native) if self._mode == "regional" else [native]
        thread = threading.Thread(target=self._compile, args=(model, shapes), name="compiler", daemon=True)
        thread.start()
        return thread

    def _graphed(self, runner: Runner) -> Runner:
        if not self._has_graphs:
            return runner
        recorder = self._recorder or CudaRecorder(self._device.torch_device)
        # The reference's graphs and those of what is compiled.
        runners = 1 if self._mode == "off" or self._obstacle else 2
        return GraphRunner(runner, recorder, self.graph_bytes // runners, in_use=self._in_use)

    def _compile(self, model: TorchModel, shapes: Sequence[Shape]) -> None:
        started = time.monotonic()
        whole = compile_whole if self._mode == "full" else None
        try:
            compiled = CompiledRunner(model.unet, model.vae, self._for_blocks, whole)
            with self._device.side_stream():
                with self._in_use:
                    compiled.prepare(shapes[0])
                model.use(self._graphed(compiled))
                logger.info("Compiled in %.0f s; canvases that begin now are run by it.", time.monotonic() - started)
                for shape in shapes[1:]:
                    with self._in_use:
                        compiled.prepare(shape)
        except Exception as error:  # noqa: BLE001  # whatever a compiler raises, the service goes on without
            reason = " ".join(str(error).strip().splitlines()[:2])
            logger.warning("Compiling failed; canvases are run as before. %s", reason)
        else:
            logger.info("Compiled for %d canvas sizes in %.0f s.", len(shapes), time.monotonic() - started)

    def _keep_compiled_code(self) -> None:
        """Has the compiler keep its code beside the state, so that a restart takes seconds."""
        try:
            folder = Path(self._settings.state_dir or cache_folder()) / "compiled"
            folder.mkdir(FOLDER_MODE, parents=True, exist_ok=True)
        except (OSError, RuntimeError) as error:
            logger.warning("Compiled code cannot be kept for the next start: %s", error)
            return
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder / "inductor"))
        os.environ.setdefault("TRITON_CACHE_DIR", str(folder / "triton"))


def compiler_obstacle(kind: str) -> str | None:
    """Returns what torch lacks to compile for a kind of device, in words; None where nothing is missing."""
    if kind == "cuda" and importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    # Triton compiles a launcher in C for each kernel; for a CPU torch writes C++.
    name, commands = ("C", ("CC", "gcc", "clang", "cc")) if kind == "cuda" else ("C++", ("CXX", "g++", "clang++"))
    variable, *usual = commands
    if not any(shutil.which(command) for command in filter(None, (os.environ.get(variable), *usual))):
        return f"torch needs a {name} compiler for it, and there is none on the PATH"
    return None


def grid_shapes(native: Shape) -> list[Shape]:
    """The shapes of canvases that regions are cut into, the native one first.

    Source: imaging/geometry.py: multiples of an eighth of the native side, up to 1.5 times its area and twice its side.
    """
    step = native.height // STEPS
    sides = range(STEPS // 2, 2 * STEPS + 1)
    area = STEPS * STEPS
    multiples = [(rows, columns) for rows in sides for columns in sides if area / 2 <= rows * columns <= 1.5 * area]
    multiples.sort(key=lambda multiple: (multiple != (STEPS, STEPS), abs(multiple[0] * multiple[1] - area)))
    return [Shape(rows * step, columns * step, native.tokens) for rows, columns in multiples]
