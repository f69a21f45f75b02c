"""What fewer steps cost and save, with the demo model: samplers and numbers of steps on held-out requests.

scripts/bench few-steps                              # without LCM
scripts/bench few-steps --lcm loras/lcm.safetensors  # from scripts/demo-lora lcm

seconds    of the processor, for a 256×256 picture with one hole
objects    pictures whose hole lies nearest to the object that was asked for, among eight
error      mean squared difference to that object, drawn; 0 is the drawing itself
seam       jump between neighbours across the hole's border, over that of the untouched picture
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
import time

import numpy as np

from sd_inpaint.schema import SchedulerName
from tools.demo_model import data
from tools.demo_model.evaluate import (
    TEST_LABELS,
    Request,
    Sampling,
    Service,
    border_jump,
    distance_to_object,
    object_request,
    reference_sprites,
)
from tools.demo_model.objects import OBJECTS
from tools.demo_model.sources import SKIMAGE_HELD_OUT_PHOTOS

FIRST_BACKGROUND = 50  # of the held-out ones, which tests/tools/test_demo_model.py takes too

SAMPLINGS = (
    Sampling(50, scheduler=SchedulerName.PNDM),
    Sampling(25, scheduler=SchedulerName.DPMPP_2M_KARRAS),
    Sampling(20, scheduler=SchedulerName.DPMPP_2M_KARRAS),
    Sampling(20, scheduler=SchedulerName.UNIPC),
    Sampling(12, scheduler=SchedulerName.DPMPP_2M_KARRAS),
    Sampling(6, scheduler=SchedulerName.DPMPP_2M_KARRAS),
)


@dataclasses.dataclass(frozen=True)
class Figures:
    """What one sampling gave, over all requests; as the module's text has them."""

    seconds: float
    objects: int
    error: float
    seam: float


def lcm_samplings(name: str) -> list[Sampling]:
    """LCM's steps with a LoRA, and 6 without it, to see what it does."""
    with_lora = [Sampling(steps, 1.0, SchedulerName.LCM, loras=f"{name}:1") for steps in (8, 6, 4)]
    return [*with_lora, Sampling(6, 1.0, SchedulerName.LCM)]


def measure(service: Service, sampling: Sampling, requests: list[tuple[int, Request]]) -> Figures:
    """Paints all requests one after another, and looks at them."""
    wanted = sorted({label for label, _ in requests})
    started = time.process_time()
    paintings = service.paint([request for _, request in requests], sampling)
    seconds = (time.process_time() - started) / len(requests)
    distances = [
        {label: distance_to_object(painted, request, label) for label in wanted}
        for (_, request), painted in zip(requests, paintings, strict=True)
    ]
    hits = sum(min(each, key=each.__getitem__) == label for each, (label, _) in zip(distances, requests, strict=True))
    after = sum(border_jump(painted, r.hole)[0] for (_, r), painted in zip(requests, paintings, strict=True))
    before = sum(border_jump(request.picture, request.hole)[0] for _, request in requests)
    error = float(np.mean([each[label] for each, (label, _) in zip(distances, requests, strict=True)]))
    return Figures(seconds, hits, error, after / before)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench few-steps", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lcm", type=pathlib.Path, help="a LoRA that makes the model an LCM")
    parser.add_argument("--backgrounds", type=int, default=2, help="for each of eight objects")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    data.sprite = reference_sprites().__getitem__  # type: ignore[assignment]  # no package of emoji is needed
    labels = [[item.label for item in OBJECTS].index(label) for label in TEST_LABELS]
    loras = [] if options.lcm is None else [options.lcm]
    with Service("demo", options.threads, 1, loras) as service:
        requests = [
            (label, object_request(label, FIRST_BACKGROUND + n, photos=SKIMAGE_HELD_OUT_PHOTOS))
            for label in labels
            for n in range(options.backgrounds)
        ]
        service.paint([requests[0][1]], Sampling(2))
        print(f"| scheduler | steps | passes | seconds | objects of {len(requests)} | error | seam |")
        print("|---|---|---|---|---|---|---|")
        for sampling in [*SAMPLINGS, *(lcm_samplings(options.lcm.stem) if loras else [])]:
            figures = measure(service, sampling, requests)
            passes = sampling.steps * (2 if sampling.guidance_scale > 1 else 1)
            name = f"{sampling.scheduler}{' with the LoRA' if sampling.loras else ''}"
            print(
                f"| {name} | {sampling.steps} | {passes} | {figures.seconds:.2f} | {figures.objects} | "
                f"{figures.error:.0f} | {figures.seam:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
