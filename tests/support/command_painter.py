"""A painter for commands that needs no model: a colour made of the seed, in files as the service writes them."""

import hashlib
from types import TracebackType
from typing import Any, ClassVar, Self

from sd_inpaint.cli.painters import Origin, Report, Stage, Work
from sd_inpaint.client import Result, ResultPicture
from sd_inpaint.errors import OutOfMemoryError
from sd_inpaint.http.wire.results import encode_all
from sd_inpaint.imaging.codecs import ImageFormat
from sd_inpaint.imaging.pair import decode_pair
from sd_inpaint.picture import Picture
from sd_inpaint.schema import InpaintResult, Variation

UNLUCKY = "unlucky"
"""A prompt that fails."""


class PlainPainter:
    """Counts what it paints.

    Attributes:
        painted: The digest of each picture that was painted.
        weights: What it says that it has.
    """

    painted: ClassVar[list[str]] = []
    weights = "a" * 64
    version = "0.1.0"

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def paint(self, work: Work, report: Report) -> Result:
        """Paints at once."""
        if work.parameters.prompt == UNLUCKY:
            raise OutOfMemoryError("The device has too little memory.")
        report(Stage("running", 1, 2, 0.5))
        request = decode_pair(work.image, work.mask, work.parameters, max_pixels=10**7)
        variations = []
        for seed in range(work.parameters.seed, work.parameters.seed + work.parameters.num_images):
            rgb = request.image.rgb.copy()
            rgb[request.mask > 127] = seed % 251
            variations.append(Variation(Picture(rgb, request.image.alpha), seed))
        facts: dict[str, Any] = {
            "image_sha256": request.image_sha256,
            "mask_sha256": request.mask_sha256,
            "weights_sha256": self.weights,
            "plan": "plain",
            "device": "none",
        }
        result = InpaintResult(tuple(variations), 2, inference_seconds=0.1, **facts)
        image_format = ImageFormat(str(work.parameters.output_format))
        files = encode_all(result, image_format, "plain", work.parameters, quality=work.parameters.quality)
        self.painted.append(hashlib.sha256(work.image).hexdigest())
        pictures = tuple(ResultPicture(file, image_format.media_type, seed) for seed, file in files)
        return Result(pictures, 2, "plain", 0.1, (), "plain", (), "")

    def forget(self, result: Result) -> None:
        """Has kept nothing."""

    def origin(self, report: Report) -> Origin:
        """Says what it is."""
        return Origin(self.version, "plain", self.weights, "none")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Has nothing to end."""
