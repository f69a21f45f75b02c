"""An image and its mask, decoded together."""

import numpy as np
import pytest

from sd_inpaint.errors import InvalidMaskError, SizeMismatchError
from sd_inpaint.imaging import pair
from sd_inpaint.picture import Picture
from sd_inpaint.schema import InpaintParameters
from tests.support.pictures import hole, photo, written

ROSE = InpaintParameters(prompt="a rose")
ROOMY = 10**6


class TestCheckSameSize:
    """Image and mask must fit."""

    def test_equal_sizes_pass(self) -> None:
        """Nothing is raised for one size."""
        pair.check_same_size(Picture(np.zeros((3, 5, 3), np.uint8)), np.zeros((3, 5), np.uint8))

    @pytest.mark.parametrize("shape", [(5, 3), (3, 4), (2, 5)])
    def test_other_sizes_are_refused_by_name(self, shape: tuple[int, int]) -> None:
        """The message and the facts name both sizes."""
        with pytest.raises(SizeMismatchError, match=rf"mask is {shape[1]}x{shape[0]} .* image 5x3") as caught:
            pair.check_same_size(Picture(np.zeros((3, 5, 3), np.uint8)), np.zeros(shape, np.uint8))
        assert caught.value.facts == {"image_size": [5, 3], "mask_size": [shape[1], shape[0]]}


class TestDecodePair:
    """Files and parameters as one request."""

    def test_files_become_pixels(self) -> None:
        """The picture, its mask and what was asked lie side by side."""
        request = pair.decode_pair(written(photo()), written(hole()), ROSE, max_pixels=ROOMY)
        assert np.array_equal(request.image.rgb, np.asarray(photo()))
        assert np.array_equal(request.mask, np.asarray(hole()))
        assert request.parameters is ROSE

    def test_without_a_mask_everything_is_repainted(self) -> None:
        """That is what A1111's clients mean by no mask."""
        request = pair.decode_pair(written(photo()), None, ROSE, max_pixels=ROOMY)
        assert (request.mask == 255).all()

    def test_transparency_as_a_mask(self) -> None:
        """By OpenAI's rule the transparent part is repainted, of the mask or of the image itself."""
        image = photo(mode="RGBA")
        alpha = 255 - np.asarray(hole())
        image.putalpha(hole().point(lambda level: 255 - level))
        for file, mask in ((written(image), None), (written(photo()), written(image))):
            request = pair.decode_pair(file, mask, ROSE, max_pixels=ROOMY, read_mask=pair.read_transparency)
            assert np.array_equal(request.mask, 255 - alpha)

    def test_nothing_transparent(self) -> None:
        """A mask without transparency is refused by this rule, and so is an opaque image without a mask."""
        for mask in (None, written(hole())):
            with pytest.raises(InvalidMaskError, match="transparen"):
                pair.decode_pair(written(photo()), mask, ROSE, max_pixels=ROOMY, read_mask=pair.read_transparency)
