"""What is not computed: because it was before, or because nobody needs it. Counted, call by call."""

from collections import Counter
from typing import Any
from unittest import mock

import pytest
import torch

from sd_inpaint.diffusion import denoiser as denoiser_module
from sd_inpaint.diffusion.denoiser import Denoiser
from tests.support.canvases import make_task, paint
from tests.support.tiny_model import make_components, make_denoiser


@pytest.fixture
def components() -> dict[str, Any]:
    """Real classes at tiny size."""
    return make_components()


@pytest.fixture
def denoiser(components: dict[str, Any]) -> Denoiser:
    """Over the components."""
    return make_denoiser(components)


@pytest.fixture
def calls(components: dict[str, Any]) -> Counter[str]:
    """How often each network ran, and how many rows the UNet had."""
    counted: Counter[str] = Counter()

    def count(name: str) -> Any:
        def hook(module: torch.nn.Module, arguments: Any) -> None:
            counted[name] += 1
            if name == "unet":
                counted["rows"] += len(arguments[0])

        return hook

    networks = {
        "text": components["text_encoder"],
        "encoder": components["vae"].encoder,
        "decoder": components["vae"].decoder,
        "unet": components["unet"],
    }
    for name, network in networks.items():
        network.register_forward_pre_hook(count(name))
    return counted


@pytest.mark.parametrize("parameters", [{}, {"strength": 0.5}, {"negative_prompt": "blurry"}], ids=str)
def test_another_seed_runs_neither_encoder(denoiser: Denoiser, calls: Counter[str], parameters: dict[str, Any]) -> None:
    """The second request of the same picture and prompt, with another seed, is nothing but steps and a decode."""
    paint(denoiser, make_task(seed=1, **parameters))
    assert calls["encoder"] > 0
    assert calls["text"] > 0
    calls.clear()
    paint(denoiser, make_task(seed=2, **parameters))
    assert (calls["text"], calls["encoder"], calls["decoder"]) == (0, 0, 1)


def test_no_guidance_is_one_row_a_step_and_no_negative_prompt(denoiser: Denoiser, calls: Counter[str]) -> None:
    """At guidance_scale 1 there is no second pass, and the negative prompt is not even embedded."""
    paint(denoiser, make_task(guidance_scale=1.0, negative_prompt="blurry", num_inference_steps=4))
    assert (calls["unet"], calls["rows"]) == (4, 4)
    model: Any = denoiser._model
    embedded = model._prompts.encode.cache_info().currsize
    paint(denoiser, make_task(guidance_scale=2.0, negative_prompt="blurry", num_inference_steps=4))
    assert (calls["unet"], calls["rows"]) == (8, 12)
    assert model._prompts.encode.cache_info().currsize == embedded + 1


def test_previews_run_no_network_and_fit_their_colours_once(
    denoiser: Denoiser, calls: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A canvas that is watched costs others a small matrix product every few steps."""
    fit = mock.Mock(wraps=denoiser_module._fit_colours)
    monkeypatch.setattr(denoiser_module, "_fit_colours", fit)
    diffusion = denoiser.begin(make_task())
    before = Counter(calls)
    while diffusion.step < diffusion.steps:
        prediction = denoiser.predict([diffusion])[0]
        before["unet"] += 1
        before["rows"] += 2
        assert denoiser.preview(diffusion, prediction).shape == (16, 16, 3)
        denoiser.advance(diffusion, prediction)
    assert calls == before
    assert fit.call_count == 1
