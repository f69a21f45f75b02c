"""Pictures in base64, as clients write it."""

import base64
import binascii
import re

from sd_inpaint.errors import InvalidParameterError

_DATA_URL = re.compile(r"\s*data:([^,]{0,200}),", re.IGNORECASE)
_URL_SAFE = str.maketrans("-_", "+/")


def decode_picture(name: str, text: object) -> bytes:
    """Reads base64, also as a data URL; takes as long as the picture is large.

    Blanks and line breaks, the alphabet for URLs and missing padding are all taken. An address is never fetched.

    Args:
        name: The field, for messages.
        text: Its value, whatever it is.

    Raises:
        InvalidParameterError: If it is not base64, or there is nothing in it.
    """
    if not isinstance(text, str):
        raise InvalidParameterError(f"{name} must be a picture as base64 text.", field=name)
    if text[:10].lstrip().lower().startswith(("http:", "https:")):
        raise InvalidParameterError(f"{name} must be a picture as base64; addresses are not fetched.", field=name)
    data_url = _DATA_URL.match(text)
    if data_url is not None:
        if not data_url[1].rstrip().lower().endswith(";base64"):
            raise InvalidParameterError(f"{name} must be a data URL with ;base64 before its comma.", field=name)
        text = text[data_url.end() :]
    digits = "".join(text.split()).translate(_URL_SAFE).rstrip("=")
    try:
        data = base64.b64decode(digits + "=" * (-len(digits) % 4), validate=True)
    except (ValueError, binascii.Error) as error:
        raise InvalidParameterError(f"{name} must be a picture as base64.", field=name) from error
    if not data:
        raise InvalidParameterError(f"{name} is empty: there are 0 bytes in it.", field=name)
    return data
