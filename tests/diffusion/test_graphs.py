"""CUDA graphs, recorded by a recorder that needs no CUDA: when, how many, and what happens where that fails."""

import threading
from typing import Any

import numpy as np
import pytest
import torch

from sd_inpaint.diffusion.graphs import MAX_CAPTURE_SECONDS, PAUSE_SECONDS, GraphRunner
from sd_inpaint.diffusion.runner import EagerRunner
from tests.support.canvases import make_task, paint
from tests.support.recorder import FakeRecorder
from tests.support.tiny_model import make_components, make_denoiser
from tools.capacity.device import Clock

ROOMY = 1 << 40


@pytest.fixture(scope="module")
def components() -> dict[str, Any]:
    """Real classes at tiny size."""
    return make_components()


@pytest.fixture
def reference(components: dict[str, Any]) -> EagerRunner:
    """What is recorded."""
    return EagerRunner(components["unet"], components["vae"])


def latents(width: int, rows: int = 1, seed: int = 0) -> torch.Tensor:
    """Latents of a canvas eight cells high."""
    return torch.randn(rows, 4, 8, width, generator=torch.Generator().manual_seed(seed))


def test_pictures_are_those_of_the_calls_that_were_recorded(components: dict[str, Any]) -> None:
    """Replayed step after step, for one canvas and then another, graphs give the same bytes; each shape is met once."""
    tasks = [make_task(seed=1), make_task((96, 64), seed=2), make_task(seed=3)]
    expected = [paint(make_denoiser(components), task) for task in tasks]
    denoiser, recorder = make_denoiser(components), FakeRecorder()
    denoiser._model.use(GraphRunner(denoiser._model.runner, recorder, ROOMY))
    for task, picture in zip(tasks, expected, strict=True):
        assert np.array_equal(paint(denoiser, task), picture)
    # A graph of the UNet and one of the decoder for each of two sizes; four steps and a decode for each canvas.
    assert (recorder.captures, recorder.replays) == (4, 15)
    assert denoiser.plan == "torch-float32-graph"


def test_results_are_the_callers_own(reference: EagerRunner) -> None:
    """A result stays what it was when the graph runs again, over its own memory."""
    runner = GraphRunner(reference, FakeRecorder(), ROOMY)
    with torch.inference_mode():
        first = runner.decode(latents(8, seed=1))
        kept = first.clone()
        second = runner.decode(latents(8, seed=2))
    assert torch.equal(first, kept)
    assert not torch.equal(first, second)


def test_rows_and_prompt_lengths_and_timesteps_have_graphs_of_their_own(reference: EagerRunner) -> None:
    """A graph is of one shape and format of all inputs, so that nothing is ever replayed with another's."""
    recorder = FakeRecorder()
    runner = GraphRunner(reference, recorder, ROOMY)
    with torch.inference_mode():
        for rows, tokens, dtype in (
            (1, 16, torch.int64),
            (2, 16, torch.int64),
            (1, 32, torch.int64),
            (1, 16, torch.float32),
        ):
            for _ in range(2):
                sample, times = torch.zeros(rows, 9, 8, 8), torch.full((rows,), 7, dtype=dtype)
                embeddings = torch.zeros(rows, tokens, 32)
                assert torch.equal(
                    runner.predict_noise(sample, times, embeddings), reference.predict_noise(sample, times, embeddings)
                )
    assert (recorder.captures, recorder.replays) == (4, 8)


def test_pool_that_was_not_used_for_longest_makes_room(reference: EagerRunner) -> None:
    """The bound is one of memory: graphs of like size go together, since they share it."""
    recorder = FakeRecorder(taken_bytes=1 << 20)
    runner = GraphRunner(reference, recorder, max_bytes=(5 << 20) // 2)
    with torch.inference_mode():
        for width in (8, 16, 8, 32, 8):
            runner.decode(latents(width))
        assert recorder.captures == 3  # 16 went when 32 came
        assert runner.taken_bytes <= (5 << 20) // 2
        runner.decode(latents(16))
    assert recorder.captures == 4
    assert recorder.pools == 4


def test_graphs_of_like_size_share_a_pool(reference: EagerRunner) -> None:
    """Sizes within a factor of two draw on the same memory; others have their own."""
    recorder = FakeRecorder()
    runner = GraphRunner(reference, recorder, ROOMY)
    with torch.inference_mode():
        for width in (8, 9, 12, 15, 16):
            runner.decode(latents(width))
    assert (recorder.captures, recorder.pools) == (5, 2)


def test_graph_that_is_too_large_is_not_recorded_again(reference: EagerRunner) -> None:
    """Where one shape takes more than all graphs may, its next calls run without, and others keep theirs."""
    recorder = FakeRecorder(taken_bytes=1 << 30)
    runner = GraphRunner(reference, recorder, max_bytes=1 << 20)
    with torch.inference_mode():
        for _ in range(3):
            assert torch.equal(runner.decode(latents(8)), reference.decode(latents(8)))
    assert recorder.captures == 1
    assert runner.taken_bytes == 0


def test_capture_that_fails_leaves_the_call_as_it_was(reference: EagerRunner, caplog: pytest.LogCaptureFixture) -> None:
    """One line is logged, the call is made without a graph, and nothing is tried again before memory is released."""
    recorder = FakeRecorder()
    recorder.failure = RuntimeError("operation not permitted when stream is capturing")
    runner = GraphRunner(reference, recorder, ROOMY)
    with torch.inference_mode():
        for _ in range(3):
            assert torch.equal(runner.decode(latents(8)), reference.decode(latents(8)))
        assert recorder.captures == 1
        assert len(caplog.records) == 1
        recorder.failure = None
        runner.release_memory()
        runner.decode(latents(8))
    assert (recorder.captures, recorder.replays) == (2, 1)


def test_slow_capture_is_the_only_one_for_a_while(reference: EagerRunner, caplog: pytest.LogCaptureFixture) -> None:
    """After a capture that took longer than a canvas may wait, new shapes run without; those recorded keep theirs."""
    clock, recorder = Clock(), FakeRecorder()
    runner = GraphRunner(reference, recorder, ROOMY, clock=clock)
    with torch.inference_mode():
        runner.decode(latents(8))

        def be_slow() -> None:
            clock.now += 1.1 * MAX_CAPTURE_SECONDS

        recorder.before = be_slow
        for width in (9, 10, 11, 9, 8):
            runner.decode(latents(width))
        assert (recorder.captures, recorder.replays) == (2, 4)
        assert "took 0.6 s" in caplog.text
        clock.now += PAUSE_SECONDS
        runner.decode(latents(10))
    assert recorder.captures == 3


def test_nothing_is_recorded_while_another_thread_uses_the_device(reference: EagerRunner) -> None:
    """While a compiler tries its code, new shapes run without a graph and nobody waits; later they have one."""
    recorder, in_use = FakeRecorder(), threading.Lock()
    runner = GraphRunner(reference, recorder, ROOMY, in_use=in_use)
    with torch.inference_mode():
        runner.decode(latents(8))
        with in_use:
            assert torch.equal(runner.decode(latents(9)), reference.decode(latents(9)))
            runner.decode(latents(8))
            assert (recorder.captures, recorder.replays) == (1, 2)
        runner.decode(latents(9))
    assert (recorder.captures, recorder.replays) == (2, 3)
    assert not in_use.locked()


def test_memory_is_released_before_the_second_try(components: dict[str, Any]) -> None:
    """When a canvas runs out of memory, all graphs go, those of runners that were replaced too."""
    denoiser = make_denoiser(components)
    older = GraphRunner(denoiser._model.runner, FakeRecorder(taken_bytes=100), ROOMY)
    newer = GraphRunner(denoiser._model.runner, FakeRecorder(taken_bytes=100), ROOMY)
    for runner in (older, newer):
        denoiser._model.use(runner)
        paint(denoiser, make_task())
        assert runner.taken_bytes > 200
    denoiser.release_memory()
    assert older.taken_bytes == newer.taken_bytes == 0
