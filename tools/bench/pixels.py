"""What a pixel of an upload costs: peak memory and processor time of decoding and of finishing, format by format.

Decoding is what a worker does with a request: both files are decoded, the mask is grown and blurred, and the canvases
are planned and cut out. Finishing is what follows the model: the picture is put together and encoded. Each runs in a
process of its own, with the allocator's settings of a worker. src/sd_inpaint/admission.py has constants from it.
"""

import argparse
import ctypes
import io
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pillow_heif
import skimage.data
from PIL import Image

from sd_inpaint.imaging import codecs, geometry, masks
from sd_inpaint.imaging.codecs import ImageFormat
from sd_inpaint.imaging.geometry import CanvasLimits
from sd_inpaint.imaging.preparation import Upload, prepare_upload
from sd_inpaint.schema import InpaintParameters
from sd_inpaint.work.worker_pool import HEAP

INPUTS: Final[dict[str, tuple[str, str, dict[str, Any]]]] = {
    "JPEG": ("RGB", "JPEG", {"quality": 90}),
    "JPEG, progressive": ("RGB", "JPEG", {"quality": 90, "progressive": True}),
    "JPEG, CMYK": ("CMYK", "JPEG", {}),
    "PNG": ("RGB", "PNG", {"compress_level": 1}),
    "PNG, alpha": ("RGBA", "PNG", {"compress_level": 1}),
    "PNG, palette": ("P", "PNG", {"compress_level": 1, "transparency": 3}),
    "PNG, 16 bits": ("I;16", "PNG", {"compress_level": 1}),
    "WebP": ("RGB", "WEBP", {"method": 0}),
    "WebP, lossless, alpha": ("RGBA", "WEBP", {"method": 0, "lossless": True, "quality": 0}),
    "AVIF": ("RGB", "AVIF", {"speed": 10}),
    "AVIF, alpha": ("RGBA", "AVIF", {"speed": 10}),
    "HEIC": ("RGB", "HEIF", {}),
    "GIF": ("P", "GIF", {}),
    "BMP": ("RGB", "BMP", {}),
    "TIFF": ("RGBA", "TIFF", {"compression": "tiff_lzw"}),
    "TIFF, float": ("F", "TIFF", {}),
}
"""Mode, format and options of each kind of upload."""

LIMITS: Final = CanvasLimits(native_size=512, stride=8, max_pixels=2048 * 2048)

SHORTEST_SECONDS: Final = 1e-9


@dataclass(frozen=True)
class Cost:
    """What one stage takes.

    Attributes:
        bytes_per_pixel: Peak memory above what is held before.
        seconds_per_megapixel: Processor time.
    """

    bytes_per_pixel: float
    seconds_per_megapixel: float


def make_upload(kind: str, side: int) -> Upload:
    """Makes a square photograph of a kind, and a mask of many small holes that grow as far as a mask can."""
    mode, file_format, options = INPUTS[kind]
    with Image.open(next(Path(skimage.data.__file__).parent.glob("coffee.*"))) as file:
        photo = file.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
    if mode == "F":
        picture = Image.fromarray(np.asarray(photo.convert("L"), np.float32))
    elif mode == "I;16":
        picture = Image.fromarray(np.asarray(photo.convert("L"), np.uint16) * 257)
    else:
        picture = photo.convert(mode)
    mask = np.zeros((side, side), np.uint8)
    mask[side // 8 : -side // 8 : side // 4, side // 8 : -side // 8 : side // 4] = 255
    parameters = InpaintParameters(prompt="", mask_grow=256, mask_blur=256)
    pillow_heif.register_heif_opener()
    return Upload(
        _written(picture, file_format, **options), _written(Image.fromarray(mask), "PNG"), parameters, side**2
    )


def measure_decoding(kind: str, side: int) -> Cost:
    """Decodes, plans and cuts out; ``side`` in pixels."""
    warm, upload = make_upload(kind, 64), make_upload(kind, side)
    prepare_upload(warm, LIMITS)
    return _measured(lambda: prepare_upload(upload, LIMITS), side)


def measure_finishing(image_format: ImageFormat, side: int, *, has_alpha: bool) -> Cost:
    """Puts a picture together and encodes it."""
    kind = "PNG, alpha" if has_alpha else "PNG"

    def finish(preparation: Any) -> bytes:
        rgb = preparation.image.rgb.copy()
        for canvas, cut in zip(preparation.canvases, preparation.cuts, strict=True):
            geometry.paste(canvas, cut.image, rgb)
        return codecs.encode(masks.composite(preparation.image, rgb, preparation.mask), image_format)

    finish(prepare_upload(make_upload(kind, 64), LIMITS))
    preparation = prepare_upload(make_upload(kind, side), LIMITS)
    return _measured(lambda: finish(preparation), side)


def measure_apart(stage: str, kind: str, side: int) -> Cost:
    """Measures in a process of its own: ``stage`` is "decode" or "finish", ``kind`` one of that stage's."""
    done = subprocess.run(
        [sys.executable, "-m", "tools.bench.pixels", "--stage", stage, "--kind", kind, "--side", str(side)],
        env={**os.environ, **HEAP, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=True,
        capture_output=True,
        text=True,
    )
    return Cost(**json.loads(done.stdout))


def _measured(run: Any, side: int) -> Cost:
    # What was freed before would serve again, and not show.
    ctypes.CDLL(None).malloc_trim(0)
    # Source: proc(5): 5 sets the peak to what is held now.
    Path("/proc/self/clear_refs").write_text("5", "ascii")
    before, started = _status_bytes("VmRSS"), time.process_time()
    result = run()
    seconds, peak = time.process_time() - started, _status_bytes("VmHWM") - before
    del result
    return Cost(peak / side**2, max(seconds, SHORTEST_SECONDS) / (side**2 / 1e6))


def _status_bytes(name: str) -> int:
    for line in Path("/proc/self/status").read_text("ascii").splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"/proc/self/status has no {name}")


def _written(picture: Image.Image, file_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, file_format, **options)
    return buffer.getvalue()


def stages() -> list[tuple[str, str]]:
    """Returns every stage with each of its kinds."""
    outputs = [f"{image_format.name}{alpha}" for image_format in ImageFormat for alpha in ("", ", alpha")]
    return [*(("decode", kind) for kind in INPUTS), *(("finish", kind) for kind in outputs)]


def main() -> None:
    """Prints the table, or one row of it as JSON."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench pixels", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--side", type=int, default=3000, help="of the square pictures, in pixels")
    parser.add_argument("--stage", choices=("decode", "finish"), help="only this one, as JSON")
    parser.add_argument("--kind", help="of --stage")
    options = parser.parse_args()
    if options.stage == "decode":
        print(json.dumps(asdict(measure_decoding(options.kind, options.side))))
    elif options.stage == "finish":
        name, _, alpha = options.kind.partition(",")
        print(json.dumps(asdict(measure_finishing(ImageFormat[name], options.side, has_alpha=bool(alpha)))))
    else:
        print("| stage | kind | peak, bytes a pixel | processor seconds a megapixel |\n| --- | --- | --- | --- |")
        for stage, kind in stages():
            cost = measure_apart(stage, kind, options.side)
            print(f"| {stage} | {kind} | {cost.bytes_per_pixel:.1f} | {cost.seconds_per_megapixel:.3f} |", flush=True)


if __name__ == "__main__":
    main()
