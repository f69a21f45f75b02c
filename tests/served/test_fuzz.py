"""Hundreds of damaged bodies against the served model: never a 5xx, never a hang, and the next request works."""

import random
import re

import httpx
import pytest

from tests.support.edge import INPAINT, LIGHT, form
from tests.support.served import Server

BATCHES = 8
BODIES_PER_BATCH = 25

TOKENS = [
    b"\r\n",
    b"\n",
    b"\r",
    b"--",
    b"\0",
    b'"',
    b";",
    b":",
    b"\xff\xfe",
    b"Content-Disposition: form-data; name=seed\r\n\r\n",
    b"Content-Disposition: form-data",
    b"Content-Transfer-Encoding: base64\r\n",
    b"Content-Type: multipart/mixed; boundary=x\r\n",
    b'filename="',
    b"filename*=utf-8''%FF",
    b'name="prompt"',
    b"null",
    b"99999999999999999999",
    b"NaN",
    b"[" * 2000,
    b"\xf0\x9f\x8c\xb9",
]
"""What a parser of forms may stumble over."""


def damaged(body: bytes, boundary: bytes, chance: random.Random) -> bytes:
    """Returns the body with one to four things wrong with it; the part headers are hit as often as the pictures."""
    data = bytearray(body)
    for _ in range(chance.randint(1, 4)):
        headers = [found.start() for found in re.finditer(b"Content-|--" + re.escape(boundary), data)] or [0]
        near = chance.choice(headers) + chance.randint(0, 80)
        at = min(near if chance.random() < 0.6 else chance.randint(0, len(data)), len(data))
        length = chance.choice([1, 1, 2, 10, 200])
        match chance.randint(0, 7):
            case 0:
                del data[at : at + length]
            case 1:
                data[at:at] = chance.choice([*TOKENS, b"--" + boundary, b"\r\n--" + boundary + b"--\r\n"])
            case 2:
                data[at : at + length] = chance.randbytes(length)
            case 3:
                data[at:at] = data[max(0, at - length) : at]
            case 4:
                del data[at:]
            case 5:
                other = chance.randint(0, len(data))
                data[at : at + length], data[other : other + length] = (
                    data[other : other + length],
                    data[at : at + length],
                )
            case 6:
                data[at : at + length] = bytes(data[at : at + length]).swapcase()
            case 7 if at < len(data):
                data[at] ^= 1 << chance.randint(0, 7)
    return bytes(data)


@pytest.mark.parametrize("seed", range(BATCHES))
def test_damaged_bodies(server: Server, seed: int) -> None:
    """A damaged body is a 4xx in the one shape, or what is left of it is a request like any other."""
    chance = random.Random(seed)  # noqa: S311  # not for secrets: the same bodies each time
    with httpx.Client(base_url=server.url, timeout=60) as client:
        request = client.build_request("POST", INPAINT, **form(**LIGHT))
        content_type = request.headers["content-type"]
        boundary = content_type.partition("boundary=")[2].encode()
        good = request.read()
        for number in range(BODIES_PER_BATCH):
            body = damaged(good, boundary, chance)
            answer = client.post(INPAINT, content=body, headers={"Content-Type": content_type})
            assert answer.status_code in (200, 400, 413), (number, answer.text)
            if answer.status_code != 200:
                shown = answer.json()
                assert set(shown) >= {"error", "code"}
                assert len(answer.content) < 2000
        answer = client.post(INPAINT, content=good, headers={"Content-Type": content_type})
        assert answer.status_code == 200


@pytest.mark.parametrize("seed", range(2))
def test_damaged_content_types(server: Server, seed: int) -> None:
    """A damaged Content-Type is a 400 or 415."""
    chance = random.Random(seed)  # noqa: S311  # as above
    with httpx.Client(base_url=server.url, timeout=60) as client:
        request = client.build_request("POST", INPAINT, **form(**LIGHT))
        good = request.read()
        for _ in range(BODIES_PER_BATCH):
            content_type = bytearray(request.headers["content-type"].encode())
            for _ in range(chance.randint(1, 3)):
                at = chance.randrange(len(content_type))
                content_type[at : at + chance.randint(0, 3)] = chance.choice(
                    [b";", b"=", b'"', b"x", b"\xff", b"", b" "]
                )
            answer = client.post(INPAINT, content=good, headers={"Content-Type": bytes(content_type).strip()})
            assert answer.status_code in (200, 400, 415), answer.text
