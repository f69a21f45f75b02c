"""How a result was made, complete enough to make it again: written into its file, and read out of it.

The text for other tools (:mod:`sd_inpaint.imaging.provenance`) leaves out what they do not know. A record has each
parameter, the digests of both files and of the weights, and what computed the picture.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Final
from xml.etree import ElementTree as ET

from pydantic import ValidationError

from sd_inpaint import __version__
from sd_inpaint.errors import InvalidImageError
from sd_inpaint.schema import InpaintParameters, InpaintResult

NAMESPACE: Final = "urn:sd-inpaint:record:"
"""Of the one XMP property that holds a record."""

_PROPERTY: Final = f"{{{NAMESPACE}}}Record"

_OF_THE_ANSWER: Final = {"num_images", "output_format"}
"""Parameters that say nothing about one picture: a record has its seed, and its file's format is seen."""

# JSON escapes other control characters by itself; these no XML can hold.
_UNWRITABLE: Final = re.compile("[\x7f\ud800-\udfff\ufffe\uffff]")


@dataclass(frozen=True, slots=True)
class Record:
    """How one picture was made.

    Attributes:
        version: Of this program.
        model: The model's name.
        weights_sha256: As :func:`weights_digest`.
        device: What an operator calls it, such as ``cpu``.
        plan: The name of what computed it on the device.
        image_sha256: Of the picture's file.
        mask_sha256: Of the mask's file; "" where the mask was not a file in black and white, as in other dialects.
        parameters: Everything that was asked, with the seed that was used.
    """

    version: str
    model: str
    weights_sha256: str
    device: str
    plan: str
    image_sha256: str
    mask_sha256: str
    parameters: InpaintParameters

    @classmethod
    def of(cls, parameters: InpaintParameters, result: InpaintResult, seed: int, model: str) -> "Record":
        """Makes the record of one of a result's pictures."""
        return cls(
            version=__version__,
            model=model,
            weights_sha256=result.weights_sha256,
            device=result.device,
            plan=result.plan,
            image_sha256=result.image_sha256,
            mask_sha256=result.mask_sha256,
            parameters=parameters.model_copy(update={"seed": seed, "num_images": 1, "output_format": None}),
        )

    def write(self) -> str:
        """Writes it as JSON that any XML can hold."""
        asked = self.parameters.model_dump(mode="json", exclude=_OF_THE_ANSWER, exclude_none=True)
        text = json.dumps(asdict(self) | {"parameters": asked}, ensure_ascii=False, separators=(",", ":"))
        return _UNWRITABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)

    @classmethod
    def read(cls, text: str) -> "Record":
        """Reads what :meth:`write` wrote.

        Raises:
            InvalidImageError: If it is damaged, or a later version wrote it.
        """
        try:
            facts = json.loads(text)
            parameters = InpaintParameters.model_validate(facts.pop("parameters"))
            return cls(parameters=parameters, **{name: str(value) for name, value in facts.items()})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            reason = error.errors()[0]["loc"] if isinstance(error, ValidationError) else ""
            raise InvalidImageError(
                f"The picture's record cannot be read: it is damaged, or another version wrote it{_named(reason)}."
            ) from error


def find_record(xmp: str) -> Record | None:
    """Finds the record in an XMP packet; None if there is none. Raises as :meth:`Record.read`."""
    try:
        root = ET.fromstring(xmp.strip("\0"))  # noqa: S314  # expat bounds what entities expand to
    except ET.ParseError:
        return None
    for element in root.iter():
        # Tools that write packets again make elements of attributes.
        text = element.text if element.tag == _PROPERTY else element.get(_PROPERTY)
        if text:
            return Record.read(text)
    return None


def weights_digest(files: Mapping[str, str]) -> str:
    """Returns one SHA-256 for all of a model's files: that of their list as ``sha256sum`` prints it, sorted by path.

    Args:
        files: Path → SHA-256 in hexadecimal; empty where it is not known.

    Returns:
        Hexadecimal; "" for no files.
    """
    if not files:
        return ""
    lines = "".join(f"{digest}  {path}\n" for path, digest in sorted(files.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def _named(location: object) -> str:
    return f" ({'.'.join(map(str, location))})" if isinstance(location, tuple) and location else ""
