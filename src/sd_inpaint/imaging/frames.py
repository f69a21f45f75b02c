"""Which of a file's pictures is meant: a TIFF's first page that is no thumbnail, a GIF's first frame on its screen."""

from typing import Final

from PIL import GifImagePlugin, Image, TiffImagePlugin

_MAX_PAGES: Final = 8
"""Looked at for one that is the picture; programs write at most a thumbnail or two before it."""

_NEW_SUBFILE_TYPE: Final = 254
_REDUCED_OR_MASK: Final = 0b101
"""Bits of it: a smaller copy of another page, and its transparency. Source: TIFF 6.0, page 36."""


def seek_picture(source: TiffImagePlugin.TiffImageFile) -> bool:
    """Goes to a TIFF's first page that is a picture of its own; returns False if there is none."""
    for page in range(_MAX_PAGES):
        try:
            source.seek(page)
        except EOFError:
            return False
        kind = source.tag_v2.get(_NEW_SUBFILE_TYPE, 0)
        if not (isinstance(kind, int) and kind & _REDUCED_OR_MASK):
            return True
    return False


def on_screen(source: GifImagePlugin.GifImageFile) -> Image.Image:
    """Returns a GIF's first frame, decoded, with nothing around it where it does not fill the screen.

    Pillow has a colour there.
    """
    extent = source.dispose_extent
    if extent is None or extent == (0, 0, *source.size):
        return source
    screen = Image.new("RGBA", source.size)
    screen.paste(source.convert("RGBA").crop(extent), extent[:2])
    screen.info = {key: value for key, value in source.info.items() if key != "transparency"}
    return screen
