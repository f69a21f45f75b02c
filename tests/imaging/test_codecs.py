"""Bytes ↔ pictures: every format and mode, as it is seen; everything else refused by name, whatever the bytes."""

import contextlib
import io
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from sd_inpaint.errors import (
    ImageTooLargeError,
    InvalidImageError,
    InvalidMaskError,
)
from sd_inpaint.imaging import codecs
from sd_inpaint.imaging.codecs import ImageFormat
from sd_inpaint.picture import Picture
from tests.support.uploads import (
    FORMATS_AND_MODES,
    SAMPLES,
    SRGB,
    WITH_EXIF,
    cmyk_profile,
    decode,
    decode_mask,
    exif,
    png,
    saved,
    seen,
    smooth,
    tiff,
    translucent,
)

BROUGHT_UPRIGHT_FROM = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
"""EXIF orientation → Pillow's transposition that makes the stored picture of the upright one."""

quick = settings(deadline=None, max_examples=15)


class TestDecodeImage:
    """Uploads that are pictures."""

    @pytest.mark.parametrize(("image_format", "mode"), FORMATS_AND_MODES, ids=lambda value: value)
    def test_pixels_are_what_pillow_shows(self, image_format: str, mode: str) -> None:
        """Every format and mode gives the colours that Pillow converts it to, upright, in own arrays."""
        data = saved((translucent() if "A" in mode else smooth()).convert(mode), image_format)
        picture = decode(data)
        assert picture.size == (picture.width, picture.height) == (70, 53)
        assert np.array_equal(picture.rgb, seen(data))
        assert (picture.alpha is not None) == ("A" in mode)
        for array in (picture.rgb, picture.alpha):
            assert array is None or (array.flags.writeable and array.flags.c_contiguous and array.dtype == np.uint8)

    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("image_format", [name for name in WITH_EXIF if name != "WEBP"])
    def test_orientation_is_applied(self, image_format: str, orientation: int) -> None:
        """A picture stored turned or mirrored comes out as it is seen, image and mask alike."""
        upright = smooth()
        turned = upright
        if orientation > 1:
            turned = upright.transpose(Image.Transpose(BROUGHT_UPRIGHT_FROM[orientation]))
        data = saved(turned, image_format, exif=exif(orientation))
        picture = decode(data)
        assert np.array_equal(picture.rgb, seen(data))
        assert np.abs(picture.rgb.astype(int) - np.asarray(upright)).mean() < 6  # lossy formats
        assert decode_mask(data).shape == (53, 70)

    @pytest.mark.parametrize(
        "block",
        [
            b"Exif\0\0",
            b"Exif\0\0garbage",
            b"Exif\0\0II*\0\xff\xff\xff\xff",
            b"Exif\0\0MM\0*\0\0\0\x08\xff\xff",
            exif(9),
            exif(0),
        ],
        ids=["empty", "garbage", "offset-outside", "entries-missing", "orientation-9", "orientation-0"],
    )
    @pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
    @pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
    def test_malformed_exif_is_ignored(self, image_format: str, block: bytes) -> None:
        """A picture with broken EXIF is shown as it is stored."""
        assert decode(saved(smooth(), image_format, exif=block)).size == (70, 53)

    @pytest.mark.parametrize("image_format", ["GIF", "WEBP", "PNG", "TIFF", "AVIF", "MPO"])
    def test_first_frame_of_many(self, image_format: str) -> None:
        """Of an animation or a stack of pages the first picture is taken."""
        frames = [Image.new("RGB", (9, 7), (level, level, level)) for level in (200, 20, 90)]
        data = saved(frames[0], image_format, save_all=True, append_images=frames[1:])
        assert np.abs(decode(data).rgb.astype(int) - 200).max() <= 2

    def test_trailing_bytes_do_not_matter(self) -> None:
        """A picture followed by something else, as phones append it, is that picture."""
        assert np.array_equal(decode(SAMPLES["JPEG"] + b"trailer" * 100).rgb, decode(SAMPLES["JPEG"]).rgb)

    def test_threads_get_the_same_pictures(self) -> None:
        """Decoding many uploads at once gives what each gives alone."""
        alone = {name: decode(data).rgb for name, data in SAMPLES.items()}
        with ThreadPoolExecutor(4) as pool:
            names = list(SAMPLES) * 4
            together = list(pool.map(lambda name: decode(SAMPLES[name]).rgb, names))
        assert all(np.array_equal(alone[name], rgb) for name, rgb in zip(names, together, strict=True))


class TestRefusals:
    """Uploads that are none, or ask for too much."""

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"x",
            b"not a picture" * 100,
            b"%PDF-1.7\n1 0 obj",
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
            b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>",
            b"P6 1 1 255 abc",
            saved(smooth(), "ICO"),
            saved(smooth(), "TGA"),
            bytes(5000),
            png(0, 5),
        ],
        ids=["empty", "byte", "text", "pdf", "eps", "svg", "ppm", "ico", "tga", "zeros", "no-width"],
    )
    def test_other_files_are_refused(self, data: bytes) -> None:
        """What is no picture, or in a format that is not read, is refused by field."""
        with pytest.raises(InvalidImageError, match=r"^The image ") as caught:
            decode(data)
        assert "0x" not in str(caught.value)
        with pytest.raises(InvalidMaskError, match=r"^The mask "):
            decode_mask(data)

    @pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
    @pytest.mark.parametrize("name", codecs.FORMATS)
    @pytest.mark.filterwarnings("ignore:(Truncated|Corrupt)")
    def test_truncated_files_are_refused(self, name: str, part: float) -> None:
        """A file that ends before its last pixel is an error now, not a grey area in the result."""
        data = SAMPLES[name]
        with pytest.raises(InvalidImageError):
            decode(data[: int(len(data) * part)])

    @given(st.sampled_from(codecs.FORMATS), st.data())
    @quick
    @pytest.mark.filterwarnings("ignore::UserWarning")
    def test_damaged_files_raise_nothing_else(self, name: str, data: st.DataObject) -> None:
        """Whatever bytes are changed, the answer is a picture within the bound or a refusal."""
        damaged = bytearray(SAMPLES[name])
        for _ in range(data.draw(st.integers(1, 6))):
            damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
        with contextlib.suppress(InvalidImageError, ImageTooLargeError):
            picture = decode(bytes(damaged), max_pixels=100_000)
            assert picture.width * picture.height <= 100_000

    @pytest.mark.parametrize("name", codecs.FORMATS)
    def test_bound_is_exact(self, name: str) -> None:
        """A picture of exactly the bound is taken; one pixel less of bound refuses it and names size and bound."""
        assert decode(SAMPLES[name], max_pixels=70 * 53).size == (70, 53)
        with pytest.raises(ImageTooLargeError, match=r"70x53 = 3710 .* at most 3709") as caught:
            decode(SAMPLES[name], max_pixels=70 * 53 - 1)
        assert caught.value.facts == {"size": [70, 53], "max_pixels": 3709}
        with pytest.raises(ImageTooLargeError, match=r"^The mask"):
            decode_mask(SAMPLES[name], max_pixels=70 * 53 - 1)

    def test_bound_may_exceed_pillows_own(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """An operator's larger bound holds where Pillow would warn of a bomb or refuse it."""
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
        assert decode(SAMPLES["PNG"], max_pixels=5000).size == (70, 53)

    @pytest.mark.parametrize(
        "data",
        [
            png(65_535, 65_535),
            png(1_000_000_000, 1),
            png(1, 2**31 - 1),
            png(9_500, 9_500),
            png(13_000, 13_000),
            saved(Image.new("P", (9, 9)), "GIF").replace(b",\0\0\0\0\x09\0\x09\0", b",\0\0\0\0\xff\xff\xff\xff"),
        ],
        ids=["square", "wide", "high", "below-pillows-warning", "above-it", "gif-frame-beyond-its-screen"],
    )
    def test_bombs_are_too_large_before_they_are_decoded(self, data: bytes) -> None:
        """A small file that claims a giant picture is refused by its header."""
        with pytest.raises(ImageTooLargeError):
            decode(data)

    def test_tiff_with_giant_tiles_is_refused(self) -> None:
        """One pixel stored in a tile of gigabytes is no way around the bound."""
        with pytest.raises(InvalidImageError, match="tiles of 60000x60000"):
            decode(tiff((322, 60_000), (323, 60_000), (324, 100), (325, 8)))

    def test_jpeg_of_endless_scans_is_refused(self) -> None:
        """A progressive JPEG that repeats its last scan thousands of times costs nothing."""
        data = saved(smooth(), "JPEG", progressive=True)
        assert decode(data).size == (70, 53)
        with pytest.raises(InvalidImageError, match="scans"):
            decode(data[:-2] + data[data.rindex(b"\xff\xda") : -2] * 5000 + data[-2:])

    @pytest.mark.parametrize("kind", [b"zTXt", b"iCCP"])
    def test_metadata_bombs_are_not_unpacked(self, kind: bytes) -> None:
        """Text or profile that unpacks to far more than its file is beside the picture, and costs nothing."""
        bomb = (kind, b"k\0\0" + zlib.compress(bytes(40_000_000)))
        picture = decode(png(1, 1, chunks=[bomb], raw=bytes(4)))
        assert picture.size == (1, 1)
        assert picture.icc_profile is None

    def test_a_long_text_is_no_bomb(self) -> None:
        """The megabytes of workflow that other tools write into a PNG do no harm."""
        text = (b"tEXt", b"workflow\0" + b"x" * 3_000_000)
        assert decode(png(1, 1, chunks=[text], raw=bytes(4))).size == (1, 1)

    def test_reasons_stay_reachable(self) -> None:
        """The library's own error is the cause of ours."""
        with pytest.raises(InvalidImageError) as caught:
            decode(SAMPLES["PNG"][:-100])
        assert isinstance(caught.value.__cause__, OSError)


class TestDecodeMask:
    """Masks: grey levels as they are seen."""

    @pytest.mark.parametrize(("image_format", "mode"), FORMATS_AND_MODES, ids=lambda value: value)
    @pytest.mark.parametrize(("colour", "level"), [("white", 255), ("black", 0)])
    def test_white_and_black_are_exact(self, image_format: str, mode: str, colour: str, level: int) -> None:
        """White is 255 and black 0 in every format and mode."""
        mask = decode_mask(saved(Image.new("RGB", (33, 17), colour).convert(mode), image_format))
        assert mask.shape == (17, 33)
        assert np.unique(mask).tolist() == [level]
        assert mask.flags.writeable

    @given(st.lists(st.integers(0, 255), min_size=1, max_size=50))
    @quick
    def test_grey_levels_are_kept(self, levels: list[int]) -> None:
        """Every grey is what it is, also as a colour, as 16 bits and with opaque alpha."""
        grey = np.array([levels], dtype=np.uint8)
        for image in (
            Image.fromarray(grey),
            Image.fromarray(grey).convert("RGB"),
            Image.fromarray(grey).convert("RGBA"),
            Image.fromarray(grey.astype(np.uint16) * 257),
        ):
            assert np.array_equal(decode_mask(saved(image, "PNG")), grey)

    def test_transparent_parts_count_as_black(self) -> None:
        """Alpha is laid over black, in proportion."""
        image = Image.new("LA", (256, 1), 255)
        image.putalpha(Image.fromarray(np.arange(256, dtype=np.uint8)[None]))
        assert decode_mask(saved(image, "PNG"))[0].tolist() == list(range(256))

    def test_palette_transparency_counts_as_black(self) -> None:
        """A white palette entry that is transparent is black."""
        data = png(2, 1, colour=3, raw=b"\0\0\1", chunks=[(b"PLTE", b"\xff" * 6), (b"tRNS", b"\0")])
        assert decode_mask(data).tolist() == [[0, 255]]

    def test_cmyk_profile_does_not_dim_white(self) -> None:
        """A mask is read by its ink values: paper is 255 whatever a profile says."""
        image = Image.new("RGB", (3, 2), "white").convert("CMYK")
        assert (decode_mask(saved(image, "TIFF", icc_profile=cmyk_profile())) == 255).all()


class TestEncode:
    """Results as files."""

    @given(
        st.integers(1, 30),
        st.integers(1, 30),
        st.booleans(),
        st.sampled_from([None, SRGB]),
        st.none()
        | st.dictionaries(
            st.sampled_from(["parameters", "Comment"]), st.text(st.characters(codec="utf-8"), max_size=30)
        ),
    )
    @quick
    def test_png_keeps_everything(
        self, width: int, height: int, has_alpha: bool, profile: bytes | None, text: dict[str, str] | None
    ) -> None:
        """What is written as PNG is read back equal: colours, also invisible ones, alpha and profile."""
        pixels = np.random.default_rng(width * 31 + height).integers(0, 256, (height, width, 4), dtype=np.uint8)
        rgb, alpha = np.ascontiguousarray(pixels[:, :, :3]), pixels[:, :, 3] if has_alpha else None
        back = decode(codecs.encode(Picture(rgb, alpha, profile), text=text))
        assert np.array_equal(back.rgb, rgb)
        assert (back.alpha is None) == (alpha is None)
        assert back.alpha is None or alpha is None or np.array_equal(back.alpha, alpha)
        assert back.icc_profile == profile

    @pytest.mark.parametrize("image_format", ImageFormat)
    def test_every_format_is_what_it_says(self, image_format: ImageFormat) -> None:
        """Each format is readable, of its media type, with the profile and nearly the colours."""
        data = codecs.encode(Picture(np.asarray(smooth()), None, SRGB), image_format)
        assert Image.open(io.BytesIO(data)).get_format_mimetype() == image_format.media_type
        picture = decode(data)
        assert np.abs(picture.rgb.astype(int) - np.asarray(smooth())).mean() < 3
        assert picture.icc_profile == SRGB
        assert picture.alpha is None

    @pytest.mark.parametrize("image_format", [ImageFormat.WEBP, ImageFormat.AVIF])
    def test_webp_and_avif_keep_alpha(self, image_format: ImageFormat) -> None:
        """Formats with alpha have it."""
        alpha = np.full((53, 70), 255, np.uint8)
        alpha[:, 35:] = 0
        back = decode(codecs.encode(Picture(np.asarray(smooth()), alpha), image_format)).alpha
        assert back is not None
        assert np.abs(back.astype(int) - alpha).max() < 8

    def test_jpeg_is_laid_on_white(self) -> None:
        """JPEG has no alpha: transparent parts are white, half transparent ones half white."""
        alpha = np.zeros((16, 48), np.uint8)
        alpha[:, 16:32], alpha[:, 32:] = 128, 255
        rgb = decode(codecs.encode(Picture(np.zeros((16, 48, 3), np.uint8), alpha), ImageFormat.JPEG)).rgb.astype(int)
        for column, level in ((4, 255), (24, 127), (44, 0)):
            assert np.abs(rgb[8, column] - level).max() <= 3

    def test_text_and_xmp_are_in_the_png(self) -> None:
        """Text chunks and the XMP packet are found by their usual names."""
        text = {"parameters": "a café\nSteps: 3", "Comment": "雪"}
        image = Image.open(io.BytesIO(codecs.encode(Picture(np.asarray(smooth())), text=text, xmp="<x>é</x>".encode())))
        assert isinstance(image, PngImagePlugin.PngImageFile)
        assert image.text == text | {"XML:com.adobe.xmp": "<x>é</x>"}

    def test_a_text_too_long_for_jpeg_is_left_out(self) -> None:
        """A JPEG whose text would not fit is written without it."""
        picture = Picture(np.asarray(smooth()))
        data = codecs.encode(picture, ImageFormat.JPEG, text={"parameters": "x" * 40_000})
        assert data == codecs.encode(picture, ImageFormat.JPEG)

    @pytest.mark.parametrize("image_format", [ImageFormat.JPEG, ImageFormat.WEBP, ImageFormat.AVIF])
    def test_text_and_xmp_are_in_other_formats(self, image_format: ImageFormat) -> None:
        """Other formats have the parameters as EXIF user comment, and the XMP packet."""
        data = codecs.encode(Picture(np.asarray(smooth())), image_format, text={"parameters": "a café 雪"}, xmp=b"<x/>")
        image = Image.open(io.BytesIO(data))
        comment = image.getexif().get_ifd(0x8769)[0x9286]
        assert comment[:8] == b"UNICODE\0"
        assert comment[8:].decode("utf-16-be") == "a café 雪"
        assert image.info["xmp"] == b"<x/>"

    @pytest.mark.parametrize("image_format", [ImageFormat.WEBP, ImageFormat.JPEG, ImageFormat.AVIF])
    def test_quality_is_the_encoder_s(self, image_format: ImageFormat) -> None:
        """A higher quality is a larger file and a smaller error; PNG has none, and keeps every level."""
        picture = Picture(np.asarray(smooth()))
        files = [codecs.encode(picture, image_format, quality=quality) for quality in (1, 50, 100)]
        assert [len(file) for file in files] == sorted({len(file) for file in files})
        errors = [np.abs(decode(file).rgb.astype(int) - picture.rgb).mean() for file in files]
        assert errors[0] > errors[1] > errors[2]
        assert codecs.encode(picture, quality=1) == codecs.encode(picture)

    def test_nothing_else_is_written(self) -> None:
        """A plain PNG has no texts, times or other traces."""
        image = Image.open(io.BytesIO(codecs.encode(Picture(np.asarray(smooth())))))
        image.load()
        assert image.info == {}

    @pytest.mark.parametrize(
        ("size", "image_format", "fits"),
        [
            ((16_383, 1), ImageFormat.WEBP, True),
            ((1, 16_384), ImageFormat.WEBP, False),
            ((65_500, 1), ImageFormat.JPEG, True),
            ((65_501, 1), ImageFormat.JPEG, False),
            ((32_768, 1), ImageFormat.AVIF, True),
            ((1, 32_769), ImageFormat.AVIF, False),
            ((65_535, 1), ImageFormat.PNG, True),
        ],
    )
    def test_longest_sides(self, size: tuple[int, int], image_format: ImageFormat, fits: bool) -> None:
        """Each format takes its longest side and refuses one pixel more, by name and with a way out."""
        picture = Picture(np.zeros((size[1], size[0], 3), np.uint8))
        if fits:
            assert decode(codecs.encode(picture, image_format)).size == size
            return
        with pytest.raises(ImageTooLargeError, match=r"at most .* Request image/png"):
            codecs.encode(picture, image_format)
