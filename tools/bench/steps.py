"""What a request costs with the full-size model: a 512×512 picture, and a 12-megapixel photo with a 300-pixel hole.

Both are taken in turn, from the uploaded bytes to the bytes of the result, so that one run gives their ratio. The model
has the real architecture and random weights, which cost what the real ones do; it is made on first use (2 GB).
"""

import argparse
import asyncio
import io
import statistics
import time
from pathlib import Path

import numpy as np
import skimage.data
from PIL import Image

from sd_inpaint.imaging.codecs import decode_image, decode_mask, encode
from sd_inpaint.painter import Painter
from sd_inpaint.schema import InpaintParameters, InpaintRequest
from sd_inpaint.settings import Settings
from tools.bench import full_size

HOLE = 300  # pixels a side


def make_upload(width: int, height: int) -> tuple[bytes, bytes]:
    """Makes a photograph of that size as JPEG, and a PNG mask with one square hole in its middle."""
    with Image.open(next(Path(skimage.data.__file__).parent.glob("coffee.*"))) as file:
        photo = file.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
    mask = np.zeros((height, width), np.uint8)
    top, left = (height - HOLE) // 2, (width - HOLE) // 2
    mask[top : top + HOLE, left : left + HOLE] = 255
    files = []
    for image, image_format in ((photo, "JPEG"), (Image.fromarray(mask), "PNG")):
        buffer = io.BytesIO()
        image.save(buffer, image_format)
        files.append(buffer.getvalue())
    return files[0], files[1]


def serve_once(painter: Painter, upload: tuple[bytes, bytes], steps: int) -> tuple[float, float]:
    """Returns the seconds a request takes in all, and those of them on the device."""
    started = time.monotonic()
    image = decode_image(upload[0], max_pixels=52_000_000)
    mask = decode_mask(upload[1], max_pixels=52_000_000)
    parameters = InpaintParameters(prompt="a red rose", num_inference_steps=steps)
    result = asyncio.run(painter.paint(InpaintRequest(image, mask, parameters)))
    encode(result.variations[0].image)
    return time.monotonic() - started, result.inference_seconds


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench steps", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--model", help="a folder, or demo; by default the full size with random weights")
    options = parser.parse_args()
    model = options.model or str(full_size.for_benchmarks())
    painter = Painter(Settings(model=model, dtype=options.dtype))
    painter.start()
    painter.engine.wait_loaded()
    painter.check_open()
    uploads = {"512×512": make_upload(512, 512), "12 megapixels": make_upload(4000, 3000)}
    serve_once(painter, uploads["512×512"], 1)
    seconds: dict[str, list[float]] = {name: [] for name in uploads}
    print("| picture | seconds | of them on the device |\n| --- | --- | --- |")
    for _ in range(options.rounds):
        for name, upload in uploads.items():
            whole, device = serve_once(painter, upload, options.steps)
            seconds[name].append(whole)
            print(f"| {name} | {whole:.1f} | {device:.1f} |", flush=True)
    small, large = (statistics.median(values) for values in seconds.values())
    print(f"\n12 megapixels cost {large / small:.2f} times 512×512 ({options.dtype}, {options.steps} steps).")
    painter.stop(drain_seconds=0.0)


if __name__ == "__main__":
    main()
