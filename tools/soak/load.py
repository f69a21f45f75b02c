"""The load of a soak test: a few callers at once, each of whom does one thing after another, drawn from a seed."""

import asyncio
import contextlib
import io
import itertools
import random
import struct
import time
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httpx
import numpy as np
from PIL import Image

CALLERS = 6
"""At once: fewer than a server's queue has places, so that most calls are served."""

PAUSE_SECONDS = 0.3
"""Longest rest of a caller between two calls."""

HEALTH_SECONDS = 0.5
"""How often health is asked."""

CALL_SECONDS = 120.0
"""No small request takes so long: a call without an answer by then counts as unanswered."""

SHUTDOWN_CALLS = 3

SIZES = ((40, 47), (53, 70), (70, 53), (90, 61), (111, 97), (129, 129))
"""Width and height, in pixels. A few: on a CPU, each new size of canvas keeps some memory (docs/reliability.md)."""

INPAINT = "/sd-inpaint/inpaint"
JOBS = "/sd-inpaint/jobs"
HEALTH = "/sd-inpaint/health"
READS = (HEALTH, "/sd-inpaint/info", "/metrics", "/livez")

MEDIA_TYPES = {
    "png": "image/png",
    "webp": "image/webp",
    "jpeg": "image/jpeg",
    "avif": "image/avif",
    "json": "application/json",
}
ENDED = ("done", "failed", "cancelled")

Form = dict[str, tuple[str | None, bytes | str]]


@dataclass
class JobRecord:
    """An accepted job, as its caller saw it.

    Attributes:
        id: From the 202.
        is_cancelled: True once the caller has cancelled it.
        end: The final state that was seen; "gone" for a 404 after it was cancelled; "lost" for any other 404.
        reason: The code of a failed job's error.
        ended_at: When the caller saw the end, in seconds of the monotonic clock.
        is_expired: Whether it was gone after its time to live; None where nobody looked.
    """

    id: str
    is_cancelled: bool = False
    end: str | None = None
    reason: str | None = None
    ended_at: float = 0.0
    is_expired: bool | None = None


@dataclass
class Findings:
    """What the callers have seen.

    Attributes:
        statuses: Kind of call and status → how often; 0 is a caller who left.
        health_seconds: How long each answer of health took.
        health_failures: Calls of health that were not answered with 200, each in a few words.
        unexpected: Answers that no caller should get, each in a sentence.
        jobs: Accepted jobs by their ids.
    """

    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)
    health_seconds: list[float] = field(default_factory=list)
    health_failures: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    jobs: dict[str, JobRecord] = field(default_factory=dict)


class Load:
    """Callers of one server.

    Args:
        url: Of the server, without a slash at its end.
        seed: Of all that is drawn: what each caller does, and in which order. How far they come depends on the server.
        any_size: True draws each picture's size; False takes one of :data:`SIZES`.
    """

    def __init__(self, url: str, seed: int, *, any_size: bool = False) -> None:
        self.findings = Findings()
        self._url = url
        self._seed = seed
        self._any_size = any_size
        self._actions: dict[Callable[[random.Random], Awaitable[None]], int] = {
            self._paint: 5,
            self._send_nonsense: 4,
            self._run_job: 4,
            self._retry_job: 1,
            self._cancel_job: 2,
            self._leave_upload: 2,
            self._leave_wait: 2,
            self._read: 3,
        }

    async def run(self, seconds: float) -> None:
        """Runs all callers for some seconds, until the last job that they were promised has ended."""
        async with self._connected():
            until = time.monotonic() + seconds
            prober = asyncio.create_task(self._probe())
            try:
                await asyncio.gather(*(self._call(number, until) for number in range(CALLERS)))
            finally:
                prober.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await prober

    async def paint_each_size(self) -> None:
        """Has a picture of each of :data:`SIZES` painted, in all formats: what a server keeps of them, it has then."""
        async with self._connected():
            draw = random.Random(f"{self._seed} sizes")  # noqa: S311 — a load, not a secret
            for size, output_format in zip(SIZES, itertools.cycle(MEDIA_TYPES)):
                form = make_form(draw, size, output_format=output_format)
                await self._send("paint", "POST", INPAINT, (200,), form)

    async def look_for_expired(self, ttl_seconds: float) -> None:
        """Asks for each job that has ended longer ago than results are kept."""
        async with self._connected():
            for record in self.findings.jobs.values():
                if record.end in ENDED and time.monotonic() > record.ended_at + ttl_seconds:
                    answer = await self._send("expired", "GET", f"{JOBS}/{record.id}", (200, 404))
                    record.is_expired = answer is not None and answer.status_code == 404

    async def run_through_stop(self, stop: Callable[[], None]) -> None:
        """Has the server stopped while it paints: what it has taken is answered, what comes later may be refused."""
        async with self._connected():
            draw = random.Random(f"{self._seed} stop")  # noqa: S311 — a load, not a secret
            forms = [self._form(draw, steps=40) for _ in range(SHUTDOWN_CALLS)]
            calls = [asyncio.create_task(self._send("stop", "POST", INPAINT, (200, 503), form)) for form in forms]
            await asyncio.sleep(PAUSE_SECONDS)
            # Answered after the calls that came before it have been accepted, however busy the machine is.
            await self._send("read", "GET", HEALTH, (200,))
            stop()
            for _ in range(SHUTDOWN_CALLS):
                # Once nobody listens any more, there is no answer at all.
                with contextlib.suppress(httpx.TransportError):
                    answer = await self._client.post(INPAINT, files=self._form(draw))
                    self.findings.statuses["after stop", answer.status_code] += 1
            await asyncio.gather(*calls)

    @contextlib.asynccontextmanager
    async def _connected(self) -> AsyncIterator[None]:
        # Without the environment: a proxy is no part of the test.
        async with httpx.AsyncClient(base_url=self._url, timeout=CALL_SECONDS, trust_env=False) as self._client:
            yield

    def _form(self, draw: random.Random, *, steps: int | None = None, output_format: str | None = None) -> Form:
        size = (draw.randrange(40, 130), draw.randrange(40, 130)) if self._any_size else draw.choice(SIZES)
        return make_form(draw, size, steps=steps, output_format=output_format)

    async def _call(self, number: int, until: float) -> None:
        draw = random.Random(f"{self._seed} {number}")  # noqa: S311 — a load, not a secret
        actions, weights = list(self._actions), list(self._actions.values())
        while time.monotonic() < until:
            await draw.choices(actions, weights)[0](draw)
            await asyncio.sleep(draw.uniform(0, PAUSE_SECONDS))

    async def _probe(self) -> None:
        while True:
            started = time.monotonic()
            try:
                answer = await self._client.get(HEALTH, timeout=CALL_SECONDS)
            except httpx.TransportError as error:
                self.findings.health_failures.append(repr(error))
            else:
                self.findings.health_seconds.append(time.monotonic() - started)
                if answer.status_code != 200:
                    self.findings.health_failures.append(str(answer.status_code))
            await asyncio.sleep(HEALTH_SECONDS)

    async def _send(
        self,
        kind: str,
        method: str,
        path: str,
        expected: tuple[int, ...],
        form: Form | None = None,
        headers: dict[str, str] | None = None,
    ) -> httpx.Response | None:
        """Sends one request; returns its answer, None if there was none, and notes what no caller should get."""
        try:
            answer = await self._client.request(method, path, files=form, headers=headers)
        except httpx.TransportError as error:
            self.findings.unexpected.append(f"{kind}: {method} was not answered ({error!r}).")
            return None
        self.findings.statuses[kind, answer.status_code] += 1
        if answer.status_code not in expected:
            self.findings.unexpected.append(f"{kind}: {method} got {answer.status_code}, {answer.text[:200]}")
        return answer

    async def _paint(self, draw: random.Random) -> None:
        output_format = draw.choice(list(MEDIA_TYPES))
        form = self._form(draw, output_format=output_format)
        answer = await self._send("paint", "POST", INPAINT, (200, 429), form)
        if answer is not None and answer.status_code == 200:
            media_type = answer.headers["content-type"].partition(";")[0]
            if media_type != MEDIA_TYPES[output_format]:
                self.findings.unexpected.append(f"paint: {media_type} instead of {output_format}.")

    async def _send_nonsense(self, draw: random.Random) -> None:
        form = self._form(draw)
        changes: list[tuple[Form, int]] = [
            ({"image": ("cut.png", as_bytes(form["image"])[:-200])}, 400),
            ({"num_inference_steps": (None, "0")}, 400),
            ({"no_such_field": (None, "1")}, 400),
            ({"mask": ("mask.png", png(np.zeros((8, 8), np.uint8)))}, 400),
            ({"image": ("huge.png", huge_png())}, 413),
        ]
        change, status = draw.choice(changes)
        await self._send("nonsense", "POST", draw.choice((INPAINT, JOBS)), (status, 429), form | change)

    async def _read(self, draw: random.Random) -> None:
        await self._send("read", "GET", draw.choice(READS), (200,))

    async def _run_job(self, draw: random.Random) -> None:
        record = await self._post_job(self._form(draw))
        if record is None:
            return
        if draw.random() < 0.5:
            await self._stream(record)
        await self._follow(record)
        if record.end == "done":
            await self._send("result", "GET", f"{JOBS}/{record.id}/result", (200, 429))

    async def _retry_job(self, draw: random.Random) -> None:
        form, key = self._form(draw), {"Idempotency-Key": f"{draw.getrandbits(64):x}-{time.time_ns()}"}
        first = await self._post_job(form, key)
        if first is None:
            return
        answer = await self._send("retry", "POST", JOBS, (202,), form, key)
        if answer is not None and answer.status_code == 202 and answer.json()["id"] != first.id:
            self.findings.unexpected.append("retry: one Idempotency-Key made two jobs.")
        await self._follow(first)

    async def _cancel_job(self, draw: random.Random) -> None:
        record = await self._post_job(self._form(draw, steps=40))
        if record is not None:
            await asyncio.sleep(draw.uniform(0, 1))
            record.is_cancelled = True
            await self._send("cancel", "DELETE", f"{JOBS}/{record.id}", (204,))
            await self._follow(record)

    async def _post_job(self, form: Form, headers: dict[str, str] | None = None) -> JobRecord | None:
        answer = await self._send("job", "POST", JOBS, (202, 429), form, headers)
        if answer is None or answer.status_code != 202:
            return None
        record = JobRecord(answer.json()["id"])
        return self.findings.jobs.setdefault(record.id, record)

    async def _stream(self, record: JobRecord) -> None:
        """Reads a job's events to the last one."""
        last = ""
        try:
            async with self._client.stream("GET", f"{JOBS}/{record.id}/events") as answer:
                self.findings.statuses["events", answer.status_code] += 1
                async for line in answer.aiter_lines():
                    if line.startswith("event:"):
                        last = line.partition(":")[2].strip()
        except httpx.TransportError as error:
            last = repr(error)
        if last not in ENDED:
            self.findings.unexpected.append(f"events: the stream ended with {last or 'no event'}.")

    async def _follow(self, record: JobRecord) -> None:
        """Asks for a job until it has ended."""
        until = time.monotonic() + CALL_SECONDS
        while record.end is None and time.monotonic() < until:
            answer = await self._send("poll", "GET", f"{JOBS}/{record.id}", (200, 404))
            if answer is not None and answer.status_code == 404:
                record.end = "gone" if record.is_cancelled else "lost"
            elif answer is not None and answer.status_code == 200 and (job := answer.json())["state"] in ENDED:
                record.end, record.ended_at = job["state"], time.monotonic()
                record.reason = job.get("error", {}).get("code")
            else:
                await asyncio.sleep(0.2)

    async def _leave_upload(self, draw: random.Random) -> None:
        """Sends half of a body, and hangs up."""
        address = urlsplit(self._url)
        boundary = "soak"
        head = (
            f"POST {draw.choice((INPAINT, JOBS))} HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Length: 100000\r\n"
            f"Content-Type: multipart/form-data; boundary={boundary}\r\n\r\n--{boundary}\r\n"
            'Content-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
        )
        port = address.port or {"https": 443}.get(address.scheme, 80)
        try:
            _, writer = await asyncio.open_connection(address.hostname, port, ssl=address.scheme == "https" or None)
            writer.write(head.encode() + bytes(draw.randrange(1, 50_000)))
            await writer.drain()
            await asyncio.sleep(draw.uniform(0, 0.3))
            writer.close()
            await writer.wait_closed()
        except OSError as error:
            self.findings.unexpected.append(f"leave upload: the connection failed ({error!r}).")
        self.findings.statuses["leave upload", 0] += 1

    async def _leave_wait(self, draw: random.Random) -> None:
        """Sends a whole request, and hangs up before the answer."""
        form = self._form(draw, steps=60)
        answer = None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(draw.uniform(0.05, 1.0)):
                answer = await self._send("leave wait", "POST", INPAINT, (200, 429), form)
        if answer is None:
            self.findings.statuses["leave wait", 0] += 1


def make_form(
    draw: random.Random, size: tuple[int, int], *, steps: int | None = None, output_format: str | None = None
) -> Form:
    """Draws a request: noise of this width and height, in one of three formats, by default with 1 to 8 steps."""
    width, height = size
    pixels = np.frombuffer(draw.randbytes(width * height * 3), np.uint8).reshape(height, width, 3)
    mask = np.zeros((height, width), np.uint8)
    mask[height // 4 : height // 2, width // 4 : width // 2] = 255
    form: Form = {
        "image": ("image", png(pixels, draw.choice(("PNG", "JPEG", "WEBP")))),
        "mask": ("mask.png", png(mask)),
        "prompt": (None, "a red rose"),
        "num_inference_steps": (None, str(steps or draw.randrange(1, 9))),
        "seed": (None, str(draw.randrange(1000))),
    }
    return form | ({"output_format": (None, output_format)} if output_format else {})


def png(pixels: np.ndarray, file_format: str = "PNG") -> bytes:
    """Encodes a picture, as a PNG or in another format."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, file_format)
    return buffer.getvalue()


def huge_png() -> bytes:
    """Returns a PNG of a few bytes that says it has 60,000×60,000 pixels: more than any server takes."""
    file = png(np.zeros((1, 1), np.uint8))
    # Source: PNG, third edition, 11.2.1: the first chunk's type at byte 12, its 13 bytes of data, then their checksum.
    header = b"IHDR" + struct.pack(">II", 60_000, 60_000) + file[24:29]
    return file[:12] + header + struct.pack(">I", zlib.crc32(header)) + file[33:]


def as_bytes(part: tuple[str | None, bytes | str]) -> bytes:
    """Returns the content of a file's part."""
    return part[1] if isinstance(part[1], bytes) else part[1].encode()
