"""Which number format a processor is faster in, measured."""

import time

import pytest
import torch

from sd_inpaint.diffusion import number_format
from sd_inpaint.diffusion.number_format import Probe, bfloat16_gain


def test_a_small_model_is_not_measured() -> None:
    """Where an operation takes microseconds, no format makes a difference."""
    assert bfloat16_gain(Probe(channels=8, side=16)) is None


def test_a_small_model_on_a_busy_machine_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """One disturbed round does not make a small model look large: its pictures would be others after a restart."""
    costs = iter((0.9, 1e-4, 1e-4))
    monkeypatch.setattr(number_format, "_cost", lambda operation: next(costs))
    assert bfloat16_gain(Probe(channels=8, side=16)) is None


def test_the_real_model_is_measured_in_a_moment() -> None:
    """Stable Diffusion's own widths give a figure, and the start is not kept waiting for it."""
    started = time.process_time()
    gain = bfloat16_gain(Probe(channels=320, side=64))
    assert gain is not None
    assert gain > 0
    # Emulated, bfloat16 takes up to a hundred times as long as the 20 milliseconds that this takes elsewhere.
    assert time.process_time() - started < (3.0 if gain < 1 else 1.0)


@pytest.mark.parametrize(("seconds", "expected"), [((0.006, 0.003), 2.0), ((0.006, 0.3), 0.02)])
def test_best_round_of_each_counts(
    monkeypatch: pytest.MonkeyPatch, seconds: tuple[float, float], expected: float
) -> None:
    """A round that was disturbed does not count, and an emulated format is given up after one."""
    calls: list[torch.dtype] = []
    costs = dict(zip((torch.float32, torch.bfloat16), seconds, strict=True))

    def cost(operation: torch.dtype) -> float:
        calls.append(operation)
        return costs[operation] * (1 + len(calls) % 3)

    monkeypatch.setattr(number_format, "_operation", lambda probe, dtype: dtype)
    monkeypatch.setattr(number_format, "_cost", cost)
    gain = bfloat16_gain(Probe(channels=320, side=64))
    assert gain is not None
    if expected > 1:
        assert calls.count(torch.bfloat16) == number_format.ROUNDS
        assert gain == pytest.approx(expected)
    else:
        assert calls.count(torch.bfloat16) == 1
        assert gain < 0.1
