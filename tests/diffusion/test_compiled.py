"""torch.compile beside a service: with torch's own tracer, and a compiler that counts and changes nothing."""

import importlib.util
import logging
import os
import shutil
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from sd_inpaint.diffusion import acceleration
from sd_inpaint.diffusion.acceleration import Acceleration, compiler_obstacle, grid_shapes
from sd_inpaint.diffusion.compiled import RECOMPILE_LIMIT, CompiledRunner, repeated
from sd_inpaint.diffusion.denoiser import Denoiser
from sd_inpaint.diffusion.devices import Device
from sd_inpaint.diffusion.model import TorchModel
from sd_inpaint.diffusion.runner import Shape
from sd_inpaint.imaging import geometry
from sd_inpaint.imaging.geometry import CanvasLimits
from sd_inpaint.model_store.stable_diffusion import UNET, VAE
from sd_inpaint.schema import Region
from sd_inpaint.settings import Settings
from tests.support.canvases import make_task, paint
from tests.support.recorder import FakeRecorder
from tests.support.tiny_model import TEXT_LENGTH, make_components, make_denoiser

CPU = Device(torch.device("cpu"), torch.float32, "cpu")
NATIVE = Shape(16, 16, TEXT_LENGTH)


class Compiler:
    """A backend of torch.compile that runs what was traced as it is, and notes which threads asked."""

    def __init__(self) -> None:
        self.threads: list[str] = []

    def __call__(self, graph: torch.fx.GraphModule, inputs: Any) -> Callable[..., Any]:
        """Compiles one graph."""
        del inputs
        self.threads.append(threading.current_thread().name)
        return graph.forward

    def compile(self, module: torch.nn.Module, *, dynamic: bool = True) -> None:
        """Has a module compile itself by this."""
        module.compile(backend=self, dynamic=dynamic)


@pytest.fixture
def compiler() -> Compiler:
    """A compiler, and none of what torch compiled before."""
    torch._dynamo.reset()
    # Its trace is long, and pytest would keep all of it.
    logging.getLogger("torch.__trace").setLevel(logging.WARNING)
    return Compiler()


@pytest.fixture
def denoiser() -> Denoiser:
    """Real classes at tiny size."""
    return make_denoiser(make_components())


def accelerate(denoiser: Denoiser, compiler: Compiler, **options: Any) -> None:
    """Begins as weights.load does, and waits for the compiler."""
    acceleration = Acceleration(
        Settings(compile="regional"), CPU, for_blocks=compiler.compile, find_obstacle=lambda kind: None, **options
    )
    thread = acceleration.begin(cast("TorchModel", denoiser._model))
    assert thread is not None
    thread.join(600)
    assert not thread.is_alive()


@pytest.fixture
def few_shapes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The native size alone: tracing takes a second a shape. What torch is told of folders is forgotten afterwards."""
    for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setattr(acceleration, "grid_shapes", lambda native: [native])


@pytest.mark.usefixtures("few_shapes")
def test_no_canvas_waits_for_the_compiler(denoiser: Denoiser, compiler: Compiler) -> None:
    """All that is compiled is compiled in a thread of its own; canvases then are run by it, to the same bytes.

    A canvas of another size, or with a longer prompt, keeps the reference's plan, and compiles nothing.
    """
    tasks = [make_task(seed=1), make_task(seed=2, guidance_scale=1.0), make_task(seed=3, scheduler="euler")]
    expected = [paint(denoiser, task) for task in tasks]
    accelerate(denoiser, compiler)
    assert denoiser.plan == "compiled-float32"
    compiled = len(compiler.threads)
    for task, picture in zip(tasks, expected, strict=True):
        assert np.array_equal(paint(denoiser, task), picture)
    for task in (make_task((96, 64)), make_task(prompt="a long prompt " * 5)):
        assert denoiser.begin(task).plan == "torch-float32"
        paint(denoiser, task)
    assert set(compiler.threads) == {"compiler"}
    assert len(compiler.threads) == compiled > 0


@pytest.mark.usefixtures("few_shapes")
def test_compiled_calls_are_recorded_as_graphs(denoiser: Denoiser, compiler: Compiler) -> None:
    """Where there are graphs, they serve at once, and the compiled networks have graphs too, of the same bytes."""
    task = make_task()
    expected = paint(denoiser, task)
    plans = [denoiser.plan]
    recorder = FakeRecorder()
    accelerate(denoiser, compiler, recorder=recorder)
    plans += [denoiser.plan, denoiser.begin(make_task((96, 64))).plan]
    assert plans == ["torch-float32", "compiled-float32-graph", "torch-float32-graph"]
    replays = recorder.replays
    assert replays == 2  # before it serves
    assert np.array_equal(paint(denoiser, task), expected)
    assert recorder.replays == replays + 5


def test_weights_are_shared(denoiser: Denoiser, compiler: Compiler) -> None:
    """What is written into the model's weights, as LoRAs are, is in the compiled networks at once."""
    model: Any = denoiser._model
    runner = CompiledRunner(model.unet, model.vae, compiler.compile)
    addresses = {tensor.data_ptr() for tensor in model.unet.parameters()}
    assert {tensor.data_ptr() for tensor in runner._unet.parameters()} == addresses
    runner.prepare(NATIVE)
    with torch.inference_mode():
        inputs = torch.ones(2, 9, 16, 16), torch.ones(2, dtype=torch.int64), torch.ones(2, TEXT_LENGTH, 32)
        before = runner.predict_noise(*inputs)
    with torch.no_grad():
        model.unet.mid_block.attentions[0].transformer_blocks[0].ff.net[2].weight.mul_(2)
    with torch.inference_mode():
        after = runner.predict_noise(*inputs)
        assert torch.equal(after, model.runner.predict_noise(*inputs))
    assert not torch.equal(before, after)


def test_whole_unet_is_compiled_for_two_rows(denoiser: Denoiser, compiler: Compiler) -> None:
    """A whole that was compiled for one shape is run two rows at a time, in any batch, and compiled no more."""
    model: Any = denoiser._model
    whole = partial(compiler.compile, dynamic=False)
    runner = CompiledRunner(model.unet, model.vae, lambda block: None, whole)
    runner.prepare(NATIVE)
    compiled = len(compiler.threads)
    with torch.inference_mode():
        sample = torch.randn(5, 9, 16, 16, generator=torch.Generator().manual_seed(1))
        times, embeddings = torch.arange(5), torch.ones(5, TEXT_LENGTH, 32)
        together = runner.predict_noise(sample, times, embeddings)
        alone = [runner.predict_noise(sample[i : i + 2], times[i : i + 2], embeddings[i : i + 2]) for i in (0, 2, 4)]
    assert torch.equal(together, torch.cat(alone))
    assert len(compiler.threads) == compiled
    assert runner.plan == "static-float32"


@pytest.mark.usefixtures("few_shapes")
def test_compiler_that_fails_changes_nothing(
    denoiser: Denoiser, compiler: Compiler, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service goes on with the plan that it has, and logs one line."""
    monkeypatch.setattr(compiler, "compile", lambda module: module.compile(backend=_fail))
    accelerate(denoiser, compiler)
    assert denoiser.plan == "torch-float32"
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "no such processor" in caplog.text


def _fail(graph: torch.fx.GraphModule, inputs: Any) -> Callable[..., Any]:
    raise RuntimeError("no such processor")


def test_limit_of_the_compiler_holds_the_real_model() -> None:
    """Stable Diffusion's own UNet and decoder have fewer forms of each block than torch is told to compile."""
    with torch.device("meta"):
        networks = UNet2DConditionModel(**UNET), AutoencoderKL(**VAE).decoder
    forms = {
        (type(block), *(tuple(tensor.shape) for tensor in block.parameters()))
        for network in networks
        for block in repeated(network)
    }
    # One row, and more than one.
    assert torch._dynamo.config.recompile_limit < 2 * len(forms) < RECOMPILE_LIMIT


def test_off_keeps_one_plan(denoiser: Denoiser) -> None:
    """Without graphs and compilers there is the reference, from the first canvas to the last."""
    off = Acceleration(Settings(compile="off", cuda_graphs=False), CPU, recorder=FakeRecorder())
    assert off.begin(cast("TorchModel", denoiser._model)) is None
    assert denoiser.plan == "torch-float32"
    assert off.graph_bytes == 0


@pytest.mark.parametrize(
    ("kind", "settings", "obstacle", "compiles", "graphs"),
    [
        ("cuda", {}, None, "regional", True),
        ("cuda", {}, "there is no compiler", "off", True),
        ("cuda", {"compile": "full"}, None, "full", True),
        ("cuda", {"compile": "off"}, None, "off", True),
        ("cuda", {"cuda_graphs": False}, None, "regional", False),
        ("cpu", {}, None, "off", False),
        ("cpu", {"compile": "regional"}, None, "regional", False),
        ("mps", {}, None, "off", False),
    ],
)
def test_choices_follow_the_device(
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    settings: dict[str, Any],
    obstacle: str | None,
    compiles: str,
    graphs: bool,
) -> None:
    """CUDA has graphs, and compiled blocks where a compiler is at hand; the rest has neither. Each has its reason."""
    monkeypatch.setattr(Device, "free_bytes", lambda device: 80 << 30)
    device = Device(torch.device(kind), torch.float16, kind)
    acceleration = Acceleration(Settings(**settings), device, find_obstacle=lambda kind: obstacle)
    choices = acceleration.choices
    assert (choices["compile"]["value"], choices["cuda_graphs"]["value"]) == (compiles, graphs)
    assert all(choice["reason"] for choice in choices.values())
    assert acceleration.graph_bytes == (12 << 30 if graphs else 0)


def test_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without triton, or without the compiler that torch needs, the reason says which."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    assert "triton" in str(compiler_obstacle("cuda"))
    assert compiler_obstacle("cpu") is None
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert "a C compiler" in str(compiler_obstacle("cuda"))
    assert "a C++ compiler" in str(compiler_obstacle("cpu"))
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    assert compiler_obstacle("cuda") is None


def test_compiled_code_is_kept_beside_the_state(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """A restart finds what was compiled before, in a folder that nobody else may write to."""
    for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(threading.Thread, "start", lambda thread: None)
    settings = Settings(compile="regional", state_dir=tmp_path)
    model: Any = make_denoiser(make_components())._model
    Acceleration(settings, CPU, find_obstacle=lambda kind: None).begin(model)
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "compiled" / "inductor")
    assert (tmp_path / "compiled").stat().st_mode & 0o077 == 0
    for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        monkeypatch.delenv(name)


def test_prepared_shapes_are_those_that_regions_have() -> None:
    """Whatever the size of a hole, the grid's canvas for it is among the shapes that are compiled, native first."""
    prepared = {(shape.width * 8, shape.height * 8) for shape in grid_shapes(Shape(64, 64, 77))}
    assert grid_shapes(Shape(64, 64, 77))[0] == Shape(64, 64, 77)
    met = set()
    for width in range(10, 1500, 70):
        for height in range(10, 1500, 90):
            mask = np.zeros((2000, 2000), np.uint8)
            mask[200 : 200 + height, 200 : 200 + width] = 255
            limits = CanvasLimits(native_size=512, stride=8, max_pixels=1 << 24)
            met |= {
                (canvas.width, canvas.height)
                for canvas in geometry.plan(mask, region=Region.AUTO, padding=None, limits=limits)
            }
    on_grid = {size for size in met if size[0] % 64 == size[1] % 64 == 0}
    assert len(on_grid) > 0.9 * len(met)
    assert on_grid <= prepared
