"""What samples mean: depths, transparency, profiles and inks, through the files that bring them."""

import struct
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from sd_inpaint.errors import InvalidImageError
from sd_inpaint.imaging import colours, icc
from tests.support.uploads import SRGB, WITH_EXIF, cmyk_profile, decode, decode_mask, png, saved, seen, smooth

GREY = SRGB[:16] + b"GRAY" + SRGB[20:]


class TestColours:
    """From any mode to 8-bit RGB."""

    @pytest.mark.parametrize("image_format", ["PNG", "TIFF"])
    @pytest.mark.parametrize("order", ["<u2", ">u2"])
    def test_sixteen_bit_grey_looks_like_itself(self, image_format: str, order: str) -> None:
        """Of 16 bits the high byte is taken, not the low one nor a clipped value."""
        levels = np.arange(0, 65536, 64, dtype=np.uint16).reshape(16, 64)
        picture = decode(saved(Image.fromarray(levels.astype(order)), image_format))
        assert np.array_equal(picture.rgb, (levels >> 8).astype(np.uint8)[:, :, None].repeat(3, axis=2))

    def test_sixteen_bit_colour_looks_like_itself(self) -> None:
        """A PNG of 16 bits a channel gives the high bytes."""
        raw = b"\0" + struct.pack(">6H", 0x1234, 0xFFFF, 0x0080, 0xFF00, 0x00FF, 0x8000)
        assert decode(png(2, 1, bits=16, raw=raw)).rgb.tolist() == [[[0x12, 0xFF, 0x00], [0xFF, 0x00, 0x80]]]

    @pytest.mark.parametrize(
        ("samples", "expected"),
        [
            pytest.param(np.array([[0.0, 0.5, 1.0]], np.float32), [0, 128, 255], id="float-to-1"),
            pytest.param(np.array([[0.0, 100.4, 255.0]], np.float32), [0, 100, 255], id="float-to-255"),
            pytest.param(np.array([[0.0, 257.0, 65535.0]], np.float32), [0, 1, 255], id="float-to-65535"),
            pytest.param(np.array([[0, 1, 255]], np.int32), [0, 1, 255], id="integer-to-255"),
            pytest.param(np.array([[0, 1, 1]], np.int32), [0, 1, 1], id="integers-are-no-parts-of-one"),
            pytest.param(np.array([[0, 257, 65535]], np.int32), [0, 1, 255], id="integer-to-65535"),
        ],
    )
    def test_deep_tiff_is_scaled_by_the_range_it_fits(self, samples: np.ndarray, expected: list[int]) -> None:
        """32-bit and float files, which don't say what white is, are read by the smallest range that holds them."""
        data = saved(Image.fromarray(samples), "TIFF")
        assert decode(data).rgb[0, :, 0].tolist() == expected
        assert decode_mask(data)[0].tolist() == expected

    @pytest.mark.parametrize("value", [np.nan, np.inf, -1.0])
    def test_deep_tiff_without_meaning_is_refused(self, value: float) -> None:
        """Negative, infinite or missing samples are no picture."""
        with pytest.raises(InvalidImageError, match="grey levels"):
            decode(saved(Image.fromarray(np.array([[0.0, value]], np.float32)), "TIFF"))

    @pytest.mark.parametrize(
        ("data", "alpha"),
        [
            pytest.param(png(2, 1, raw=b"\0\1\2\3\4\5\6", chunks=[(b"tRNS", b"\0\4\0\5\0\6")]), [255, 0], id="rgb-key"),
            pytest.param(png(2, 1, colour=0, raw=b"\0\1\2", chunks=[(b"tRNS", b"\0\2")]), [255, 0], id="grey-key"),
            pytest.param(
                png(2, 1, bits=16, colour=0, raw=b"\0\1\2\1\3", chunks=[(b"tRNS", b"\1\3")]), [255, 0], id="grey16-key"
            ),
            pytest.param(
                png(2, 1, colour=3, raw=b"\0\1\0", chunks=[(b"PLTE", b"\1\2\3\4\5\6"), (b"tRNS", b"\x07\x2a")]),
                [42, 7],
                id="palette-bytes",
            ),
            pytest.param(saved(Image.new("P", (2, 1)), "GIF", transparency=0), [0, 0], id="gif"),
            pytest.param(png(1, 1, colour=4, raw=b"\0\5\x09"), [9], id="grey-alpha"),
            pytest.param(png(1, 1, bits=16, colour=4, raw=b"\0\5\5\x09\x08"), [9], id="grey-alpha-16"),
        ],
    )
    def test_every_kind_of_transparency_becomes_alpha(self, data: bytes, alpha: list[int]) -> None:
        """Keyed colours, palette alpha and alpha channels all come as alpha; the colours stay as stored."""
        found = decode(data).alpha
        assert found is not None
        assert found.tolist() == [alpha]

    def test_invisible_colours_are_kept(self) -> None:
        """The colours of wholly transparent pixels come back too: they are the caller's bytes."""
        rgba = np.dstack((np.asarray(smooth()), np.zeros((53, 70), np.uint8)))
        assert np.array_equal(decode(saved(Image.fromarray(rgba), "PNG")).rgb, np.asarray(smooth()))

    @pytest.mark.parametrize(
        ("mode", "profile", "kept"),
        [
            ("RGB", SRGB, SRGB),
            ("RGBA", SRGB, SRGB),
            ("P", SRGB, SRGB),
            ("L", GREY, None),
            ("CMYK", cmyk_profile(), None),
            ("CMYK", SRGB, None),
            ("RGB", SRGB[:100], None),
            ("RGB", b"garbage" * 40, None),
            ("RGB", SRGB + bytes(5_000_000), None),
        ],
        ids=["rgb", "rgba", "palette", "grey", "cmyk", "rgb-on-cmyk", "cut", "garbage", "giant"],
    )
    def test_only_a_profile_of_rgb_is_carried(self, mode: str, profile: bytes | None, kept: bytes | None) -> None:
        """The profile comes back where it describes RGB values, and never on values of another kind."""
        data = saved(smooth().convert(mode), "TIFF", icc_profile=profile)
        assert decode(data).icc_profile == kept

    @pytest.mark.parametrize("image_format", WITH_EXIF)
    def test_profile_is_found_in_every_format(self, image_format: str) -> None:
        """An RGB profile is carried from each format that can hold one."""
        assert decode(saved(smooth(), image_format, icc_profile=SRGB)).icc_profile == SRGB

    def test_threads_share_a_transform(self) -> None:
        """Pictures converted at the same time are what each is alone."""
        profile = icc.rgb_profile(((0.3127, 0.3290), (0.68, 0.32), (0.265, 0.69), (0.15, 0.06)), [icc.srgb_curve()])
        random = np.random.default_rng(5)
        pictures = [random.integers(0, 256, (80, 90, 3), dtype=np.uint8) for _ in range(24)]
        alone = [colours.to_srgb(picture, profile) for picture in pictures]
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(lambda picture: colours.to_srgb(picture, profile), pictures))
        assert all(np.array_equal(one, other) for one, other in zip(alone, together, strict=True))

    def test_cmyk_is_converted_by_its_profile(self) -> None:
        """Ink values mean what their profile says."""
        data = saved(smooth().convert("CMYK"), "TIFF", icc_profile=cmyk_profile())
        red, green, blue = decode(data).rgb[20, 20].astype(int)
        assert blue > green > red
        assert np.ptp(decode(data).rgb.reshape(-1, 3), axis=0).max() == 0

    @pytest.mark.parametrize("profile", [None, SRGB, b"garbage"], ids=["none", "of-rgb", "garbage"])
    def test_cmyk_without_a_profile_of_its_own_is_converted_plainly(self, profile: bytes | None) -> None:
        """A missing, wrong or broken profile leaves the plain conversion."""
        data = saved(smooth().convert("CMYK"), "JPEG", **({"icc_profile": profile} if profile else {}))
        assert np.array_equal(decode(data).rgb, seen(data))

    def test_lab_is_converted(self) -> None:
        """A LAB picture, which Pillow does not convert, comes as colours: L=100% is white, 0 black."""
        lab = Image.fromarray(np.array([[[255, 0, 0], [0, 0, 0]]], np.uint8), "LAB")
        rgb = decode(saved(lab, "TIFF")).rgb.astype(int)
        assert rgb[0, 0].min() >= 253
        assert rgb[0, 1].max() <= 2
