"""Where the demo model's training data comes from: three-dimensional emoji, and photographs among Debian's wallpapers.

None of it lies in the repository. ``fetch`` downloads the packages with npm and apt-get, and unpacks them below
``BUILD_DIR``; what is there already is kept.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import subprocess
import tarfile

import numpy as np
import numpy.typing as npt
from PIL import Image

from tools.demo_model.parts import BUILD_DIR

SOURCES_DIR = BUILD_DIR / "sources"
EMOJI_PACKAGE = "@lobehub/fluent-emoji-3d@1.1.0"  # MIT; Microsoft's Fluent Emoji, MIT too
PHOTO_SIDE = 1600  # longer side in pixels, to which photographs are reduced; some have 20 megapixels


@dataclasses.dataclass(frozen=True)
class Photo:
    """A photograph: its Debian package, its path in it, and its licence as the package's copyright file gives it."""

    package: str
    path: str
    licence: str

    @property
    def name(self) -> str:
        """What the card and the gallery call it."""
        parts = self.path.split("/")
        return parts[-4] if "contents" in parts else pathlib.Path(self.path).stem


_LOMIRI_16 = ("lomiri-wallpapers-16.04", "usr/share/backgrounds/")
_MATE = ("mate-backgrounds", "usr/share/backgrounds/mate/nature/")
_PLASMA = ("plasma-workspace-wallpapers", "usr/share/wallpapers/")


def _photos(package: tuple[str, str], licence: str, *names: str) -> tuple[Photo, ...]:
    return tuple(Photo(package[0], package[1] + name, licence) for name in names)


def _plasma(*names: str) -> tuple[Photo, ...]:
    return _photos(_PLASMA, "GPL-2+", *(f"{name}/contents/images/2560x1600.jpg" for name in names))


TRAINING_PHOTOS = (
    *_photos(_LOMIRI_16, "CC-BY-SA-4.0", "Bridge_by_Sander_Klootwijk.jpg", "Dragonfly_by_Bolly.jpg",
             "free_by_Peter_Nerlich.jpg", "greentock_by_Peter_Nerlich.jpg"),
    *_photos(_LOMIRI_16, "CC-BY-4.0", "Picture_0B_by_freespace.jpg", "Picture_1A_by_freespace.jpg",
             "Wine_by_Jakkub_Mede.jpg", "aitzgorri_by_Aitzol_Berasategi.jpg", "friends_by_Aitzol_Berasategi.jpg",
             "picosdeeuropa_by_Aitzol_Berasategi.jpg", "sunset_by_Aitzol_Berasategi.jpg"),
    Photo("lomiri-wallpapers-20.04", "usr/share/backgrounds/Kleiber_by_Lukas_Baubkus.jpg", "CC-BY-SA-3.0"),
    *_photos(_MATE, "GPL-2+", "Aqua.jpg", "Blinds.jpg", "FreshFlower.jpg", "Garden.jpg", "GreenMeadow.jpg",
             "LadyBird.jpg", "RainDrops.jpg", "Storm.jpg", "TwoWings.jpg", "Wood.jpg", "YellowFlower.jpg"),
    *_plasma("ColdRipple", "ColorfulCups", "DarkestHour", "EveningGlow", "FallenLeaf", "Grey", "OneStandsOut",
             "summer_1am"),
)  # fmt: skip
# Chosen by name before anything was trained: bank of a lake, grass before the sea, wood, stream, meadow, sky.
HELD_OUT_PHOTOS = (
    *_photos(_MATE, "GPL-2+", "Dune.jpg"),
    *_photos(_LOMIRI_16, "CC-BY-4.0", "life_by_Aitzol_Berasategi.jpg"),
    *_photos(_LOMIRI_16, "CC0-1.0", "seeding_by_Clements_Engelhardt.jpg"),
    *_plasma("BytheWater", "Kite", "Path"),
)
# Each CC0, in the public domain or without known copyright restrictions, as the docstrings of skimage.data say.
SKIMAGE_TRAINING_PHOTOS = (
    "astronaut.png", "coffee.png", "rocket.jpg", "grass.png", "gravel.png", "brick.png", "camera.png", "coins.png",
)  # fmt: skip
SKIMAGE_HELD_OUT_PHOTOS = ("chelsea.png",)


def fetch() -> None:
    """Downloads and unpacks every package that is not there yet.

    Raises:
        subprocess.CalledProcessError: If npm, apt-get or dpkg-deb fails; what it printed says why.
    """
    SOURCES_DIR.mkdir(parents=True, exist_ok=True)
    emoji = SOURCES_DIR / "emoji"
    if not emoji.exists():
        packed = subprocess.run(
            ["npm", "pack", "--silent", EMOJI_PACKAGE], cwd=SOURCES_DIR, check=True, stdout=subprocess.PIPE, text=True
        )
        with tarfile.open(SOURCES_DIR / packed.stdout.split()[-1]) as archive:
            archive.extractall(SOURCES_DIR / "emoji.partial", filter="data")
        (SOURCES_DIR / "emoji.partial").rename(emoji)
    for package in sorted({photo.package for photo in (*TRAINING_PHOTOS, *HELD_OUT_PHOTOS)}):
        folder = SOURCES_DIR / package
        if not folder.exists():
            subprocess.run(["apt-get", "download", package], cwd=SOURCES_DIR, check=True)
            (archive_path,) = SOURCES_DIR.glob(f"{package}_*.deb")
            partial = folder.with_suffix(".partial")
            subprocess.run(["dpkg-deb", "-x", str(archive_path), str(partial)], check=True)
            partial.rename(folder)


@functools.cache
def photo_pixels(photo: Photo | str) -> npt.NDArray[np.uint8]:
    """The photograph reduced to ``PHOTO_SIDE``, (H, W, 3); a string names one of scikit-image's."""
    if isinstance(photo, str):
        import skimage

        path = pathlib.Path(skimage.__file__).parent / "data" / photo
    else:
        path = SOURCES_DIR / photo.package / photo.path
    with Image.open(path) as file:
        file.draft("RGB", (PHOTO_SIDE, PHOTO_SIDE))
        picture = file.convert("RGB")
    picture.thumbnail((PHOTO_SIDE, PHOTO_SIDE), Image.Resampling.LANCZOS)
    return np.asarray(picture)


@functools.cache
def emoji_files() -> tuple[pathlib.Path, ...]:
    """Every emoji of the package without a skin tone or a second person in it, sorted."""
    folder = SOURCES_DIR / "emoji" / "package" / "assets"
    tones = ("1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff")
    return tuple(path for path in sorted(folder.glob("*.webp")) if not any(tone in path.stem for tone in tones))


def emoji_file(emoji: str) -> pathlib.Path:
    """The file of one emoji, which is named by its code points."""
    return SOURCES_DIR / "emoji" / "package" / "assets" / ("-".join(f"{ord(c):x}" for c in emoji) + ".webp")
