"""What a result's file says of itself: readable by other tools, true, and nothing of the caller's."""

import dataclasses
import io
import json
import re
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sd_inpaint.imaging import codecs, provenance
from sd_inpaint.imaging.codecs import ImageFormat
from sd_inpaint.picture import Picture
from sd_inpaint.schema import InpaintParameters, InpaintResult, SchedulerName, Variation

MODEL = "runwayml/stable-diffusion-inpainting"
PARAMETER = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
"""How A1111 splits the last line. Source: AUTOMATIC1111/stable-diffusion-webui, modules/infotext_utils.py."""


def result(
    steps: int = 50, regions: tuple[str, ...] = ("0,0,70,53@8.4->592x448",), is_all_painted: bool = False
) -> InpaintResult:
    """A result of 70×53 pixels."""
    picture = Picture(np.zeros((53, 70, 3), np.uint8))
    return InpaintResult(
        (Variation(picture, 7),), steps, inference_seconds=1.0, regions=regions, is_all_painted=is_all_painted
    )


def asked(prompt: str = "a red rose", **values: Any) -> InpaintParameters:
    """Parameters of a request."""
    return InpaintParameters(prompt=prompt, **values)


def read(text: str) -> tuple[str, str, dict[str, str]]:
    """Prompt, negative prompt and settings, as other tools take them out of the text."""
    *lines, last = text.split("\n")
    found = {}
    for name, value in PARAMETER.findall(last):
        found[name] = json.loads(value) if value.startswith('"') else value
    prompt, _, negative = "\n".join(lines).partition("\nNegative prompt: ")
    return prompt, negative, found


class TestTexts:
    """The parameters text."""

    def test_other_tools_read_every_setting(self) -> None:
        """The text of a full request is split by A1111's rule into what was asked and what was used."""
        parameters = asked(
            negative_prompt="blurry, low quality",
            num_inference_steps=30,
            guidance_scale=8.0,
            seed=-1,
            scheduler=SchedulerName.DPMPP_2M_KARRAS,
            strength=0.75,
            mask_blur=4.0,
            mask_invert=True,
        )
        texts = provenance.texts(parameters, result(), 123, model=MODEL)
        assert texts["Software"].startswith("sd-inpaint ")
        assert read(texts["parameters"]) == (
            "a red rose",
            "blurry, low quality",
            {
                "Steps": "30",
                "Sampler": "DPM++ 2M",
                "Schedule type": "Karras",
                "CFG scale": "8",
                "Seed": "123",
                "Size": "70x53",
                "Model": MODEL,
                "Denoising strength": "0.75",
                "Mask blur": "4",
                "Mask mode": "Inpaint not masked",
                "RNG": "CPU",
                "Region": "0,0,70,53@8.4->592x448",
            },
        )

    def test_plan_is_told(self) -> None:
        """The text names what computed the picture, without which the same seed may round differently."""
        planned = dataclasses.replace(result(), plan="torch-float16")
        assert read(provenance.texts(asked(), planned, 7, model=MODEL)["parameters"])[2]["Plan"] == "torch-float16"

    def test_what_was_not_asked_is_not_said(self) -> None:
        """Defaults leave out the mask's settings, the negative prompt and the sampler's unknown name."""
        prompt, negative, found = read(provenance.texts(asked(), result(), 7, model=MODEL)["parameters"])
        assert (prompt, negative) == ("a red rose", "")
        assert not {"Sampler", "Schedule type", "Mask blur", "Mask mode", "Inpaint area"} & found.keys()

    def test_cropped_regions_are_told(self) -> None:
        """Where only a part was painted the text says so, with the padding if it was chosen."""
        cropped = result(regions=("0,0,10,10@1->16x16", "40,40,50,50@1->16x16"))
        found = read(provenance.texts(asked(padding=12), cropped, 7, model=MODEL)["parameters"])[2]
        assert found["Inpaint area"] == "Only masked"
        assert found["Masked area padding"] == "12"
        assert found["Region"] == "0,0,10,10@1->16x16; 40,40,50,50@1->16x16"

    @pytest.mark.parametrize("scheduler", [name for name in SchedulerName if name is not SchedulerName.DEFAULT])
    def test_every_sampler_has_a_name(self, scheduler: SchedulerName) -> None:
        """No sampler that a caller may name is left unsaid."""
        assert read(provenance.texts(asked(scheduler=scheduler), result(), 7, model=MODEL)["parameters"])[2]["Sampler"]

    def test_nothing_painted_says_nothing(self) -> None:
        """An input that came back untouched is not marked as generated."""
        assert provenance.texts(asked(), result(steps=0), 7, model=MODEL) == {}
        assert provenance.xmp(result(steps=0), model=MODEL) is None

    def test_unwritable_characters_are_left_out(self) -> None:
        """Control characters and halves of surrogate pairs, which no file can hold, are not there; the rest is."""
        text = provenance.texts(asked("a\0 rose\n\tred"), result(), 7, model="my\ud800 model")["parameters"]
        assert read(text)[0] == "a rose\n\tred"
        assert read(text)[2]["Model"] == "my model"

    @given(st.text(max_size=60), st.text(max_size=60), st.text(min_size=1, max_size=20), st.sampled_from(ImageFormat))
    @settings(deadline=None, max_examples=15)
    def test_any_prompt_can_be_written(self, prompt: str, negative: str, model: str, image_format: ImageFormat) -> None:
        """Whatever characters prompts and names have, lone surrogates too, every format takes the marks."""
        painted = result()
        texts = provenance.texts(asked(prompt, negative_prompt=negative), painted, 7, model=model)
        data = codecs.encode(
            painted.variations[0].image, image_format, text=texts, xmp=provenance.xmp(painted, model=model)
        )
        assert codecs.decode_image(data, max_pixels=10_000).size == (70, 53)

    @pytest.mark.parametrize("image_format", ImageFormat)
    @pytest.mark.parametrize("letter", ["a", "雪", "🌹"])
    def test_longest_prompts_can_be_written(self, image_format: ImageFormat, letter: str) -> None:
        """Prompts of the greatest length leave every format writable."""
        painted = result()
        texts = provenance.texts(asked(letter * 10_000, negative_prompt=letter * 10_000), painted, 7, model=MODEL)
        data = codecs.encode(painted.variations[0].image, image_format, text=texts)
        assert codecs.decode_image(data, max_pixels=10_000).size == (70, 53)


class TestXmp:
    """The mark of generated pixels."""

    @pytest.mark.parametrize(
        ("is_all_painted", "term"),
        [(False, "compositeWithTrainedAlgorithmicMedia"), (True, "trainedAlgorithmicMedia")],
    )
    @pytest.mark.parametrize("image_format", ImageFormat)
    def test_source_type_is_read_back(self, image_format: ImageFormat, is_all_painted: bool, term: str) -> None:
        """In each format the packet is well-formed and has IPTC's term for what a model made."""
        packet = provenance.xmp(result(is_all_painted=is_all_painted), model='a "model" & <more>')
        image = Image.open(io.BytesIO(codecs.encode(result().variations[0].image, image_format, xmp=packet)))
        found = image.info.get("xmp") or image.info["XML:com.adobe.xmp"].encode()
        # The only XML parsed here is the packet that this test wrote.
        (description,) = ET.fromstring(found).iter("{http://www.w3.org/1999/02/22-rdf-syntax-ns#}Description")  # noqa: S314
        extension = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}"
        assert (
            description.get(f"{extension}DigitalSourceType") == f"http://cv.iptc.org/newscodes/digitalsourcetype/{term}"
        )
        assert description.get(f"{extension}AISystemUsed") == 'a "model" & <more>'
