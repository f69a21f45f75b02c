"""The tools: what an assistant can ask for."""

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import anyio.to_thread
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import CallToolResult, ImageContent, TextContent
from pydantic import Field
from pydantic.json_schema import SkipJsonSchema

import sd_inpaint
from sd_inpaint.client import AsyncClient, Job, Options, Progress, Result
from sd_inpaint.errors import InpaintError, InvalidParameterError
from sd_inpaint.imaging import codecs
from sd_inpaint.imaging.codecs import ImageFormat
from sd_inpaint.imaging.extension import Sides, extend
from sd_inpaint.imaging.mask_shapes import encode_mask
from sd_inpaint.mcp.folders import Folders
from sd_inpaint.mcp.pictures import MaskArgument, PictureArgument, Pictures, Shape
from sd_inpaint.mcp.service import Service
from sd_inpaint.schema import InpaintParameters

MAX_SHOWN_BYTES = 8 * 1024**2
"""Of a picture in an answer: more than assistants take."""

INSTRUCTIONS = """Repaints parts of pictures from a prompt. White in a mask is repainted, black is kept. A mask can be \
given as a shape. Pictures take seconds on a GPU and minutes on a CPU: ask for progress, or pass wait=false and look \
the job up. Errors end with their code in brackets."""

ToolContext = Context[Any, Any]
KeyOf = Callable[[ToolContext], str | None]

Output = Annotated[
    str | None,
    Field(description="Also write it to this new file: .png, .webp, .jpg or .avif. Nothing is overwritten."),
]
Show = Annotated[bool, Field(description="Answer with the picture; false answers with words only.")]
Wait = Annotated[bool, Field(description="Wait for the picture; false answers with the job's id at once.")]
JobId = Annotated[str, Field(description="The job's id.", min_length=1, max_length=200)]
Room = Annotated[int, Field(ge=0, le=8192, description="Pixels added on this side.")]


class PaintOptions(InpaintParameters):
    """Everything that may be set beside picture, mask and prompt."""

    prompt: SkipJsonSchema[str] = Field(default="", max_length=0)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to become of a result.

    Attributes:
        output: The new file; None writes none.
        show: Whether the picture is in the answer.
        wait: Whether the answer waits for it.
    """

    output: str | None
    show: bool
    wait: bool = True


class Tools:
    """The tools of one server. Any number of calls may run at once.

    Args:
        service: Where pictures are painted.
        pictures: Reads arguments.
        key_of: Finds the key of a call's caller.
    """

    def __init__(self, service: Service, pictures: Pictures, key_of: KeyOf = lambda context: None) -> None:
        self._service = service
        self._pictures = pictures
        self._key_of = key_of

    def server(self) -> MCPServer[Any]:
        """Returns the server that has these tools."""
        server: MCPServer[Any] = MCPServer("sd-inpaint", version=sd_inpaint.__version__, instructions=INSTRUCTIONS)
        for tool in (self.inpaint, self.remove, self.extend, self.make_mask, self.job, self.result, self.cancel):
            server.add_tool(tool, structured_output=False)
        return server

    async def inpaint(
        self,
        image: PictureArgument,
        mask: MaskArgument,
        prompt: Annotated[str, Field(max_length=10_000, description="What belongs where the mask is white.")],
        context: ToolContext,
        options: PaintOptions = PaintOptions(),  # noqa: B008  # frozen
        output: Output = None,
        show: Show = True,
        wait: Wait = True,
    ) -> CallToolResult:
        """Repaint the white part of a mask in a picture, from a prompt. The result has the picture's size."""
        with _in_words():
            file = await self._pictures.read("image", image)
            return await self._paint(
                context, file, await self._pictures.mask(file, mask), prompt, options, Wanted(output, show, wait)
            )

    async def remove(
        self,
        image: PictureArgument,
        mask: MaskArgument,
        context: ToolContext,
        prompt: Annotated[str, Field(max_length=10_000, description="What is behind it.")] = "empty background",
        options: PaintOptions = PaintOptions(negative_prompt="object, person, watermark"),  # noqa: B008  # frozen
        output: Output = None,
        show: Show = True,
        wait: Wait = True,
    ) -> CallToolResult:
        """Remove what a mask covers, and paint what would be behind it."""
        return await self.inpaint(image, mask, prompt, context, options, output, show, wait)

    async def extend(
        self,
        image: PictureArgument,
        context: ToolContext,
        left: Room = 0,
        top: Room = 0,
        right: Room = 0,
        bottom: Room = 0,
        prompt: Annotated[
            str, Field(max_length=10_000, description="What belongs there.")
        ] = "continuation of the scene, seamless",
        overlap: Annotated[int, Field(ge=0, le=512, description="Pixels of the picture that are blended.")] = 32,
        options: PaintOptions = PaintOptions(negative_prompt="cut off, border, edge"),  # noqa: B008  # frozen
        output: Output = None,
        show: Show = True,
        wait: Wait = True,
    ) -> CallToolResult:
        """Add room around a picture, and paint what continues it there. The result is larger than the picture."""
        with _in_words():
            sides = Sides(left, top, right, bottom)
            if sides == Sides():
                raise InvalidParameterError("Set left, top, right or bottom: there is no room to add.", field="left")
            file = await self._pictures.read("image", image)
            larger, mask = await anyio.to_thread.run_sync(self._extended, file, sides, overlap)
            return await self._paint(context, larger, mask, prompt, options, Wanted(output, show, wait))

    async def make_mask(
        self,
        image: PictureArgument,
        shape: Shape,
        grow: Annotated[int, Field(ge=-256, le=256, description="Pixels by which it grows; negative shrinks.")] = 0,
        blur: Annotated[float, Field(ge=0, le=256, description="Gaussian blur, sigma in pixels.")] = 0.0,
        invert: Annotated[bool, Field(description="Repaint what is outside of it.")] = False,
        output: Output = None,
        show: Show = True,
    ) -> CallToolResult:
        """Make the mask of a shape, for a picture: to look at it, or to use it several times."""
        with _in_words():
            place = self._place(output, ImageFormat.PNG)
            file = await self._pictures.read("image", image)
            mask = await anyio.to_thread.run_sync(
                lambda: self._pictures.draw(file, shape, grow=grow, blur=blur, invert=invert)
            )
            written = await self._write([mask], place)
            return _answer(f"The mask is made.{written}", [(mask, "image/png")] if show else [], {"output": output})

    async def job(self, job_id: JobId, context: ToolContext) -> CallToolResult:
        """Look up how far a job is."""
        with _in_words():
            async with self._client(context) as client:
                return _describe(await client.job(job_id))

    async def result(
        self, job_id: JobId, context: ToolContext, output: Output = None, show: Show = True
    ) -> CallToolResult:
        """Return the picture of a job that is done. It stays where it is, until cancel deletes it or it expires."""
        with _in_words():
            async with self._client(context) as client:
                return await self._deliver(await client.result(job_id), Wanted(output, show))

    async def cancel(self, job_id: JobId, context: ToolContext) -> CallToolResult:
        """Cancel a job, or delete the result of one that has ended."""
        with _in_words():
            async with self._client(context) as client:
                await client.cancel(job_id)
            return _answer(f"Job {job_id} is cancelled, or its result deleted.", [], {"job_id": job_id})

    async def _paint(
        self, context: ToolContext, image: bytes, mask: bytes, prompt: str, options: PaintOptions, wanted: Wanted
    ) -> CallToolResult:
        # 1. Refuse what can be refused before anything is painted.
        output_format = self._format_of(wanted.output)
        self._place(wanted.output, output_format)
        sent = options.model_dump(exclude_unset=True, exclude={"prompt"})
        if output_format is not None:
            sent.setdefault("output_format", output_format)
        # 2. Have the job accepted.
        await self._service.wait_ready()
        async with self._client(context) as client:
            job = await client.submit(image, mask, prompt, **cast("Options", sent))
            if not wanted.wait:
                return _describe(job)
            # 3. Wait for it. Whoever breaks the call off wants no picture.
            try:
                async with _reporting(context) as report:
                    await client.wait(job.id, on_progress=report)
                result = await client.result(job.id)
            except BaseException:
                with contextlib.suppress(InpaintError), anyio.CancelScope(shield=True):
                    await client.cancel(job.id)
                raise
            # 4. What cannot be delivered stays with the job.
            answer = await self._deliver(result, wanted)
            with contextlib.suppress(InpaintError):
                await client.cancel(job.id)
            return answer

    async def _deliver(self, result: Result, wanted: Wanted) -> CallToolResult:
        files = [(picture.data, picture.media_type) for picture in result.pictures]
        largest = max(len(data) for data, _ in files)
        if wanted.show and largest > MAX_SHOWN_BYTES:
            raise InvalidParameterError(
                f"The picture has {largest} bytes, more than an answer may have. Job {result.job_id} keeps it: call "
                "result with show=false and an output. Or paint again with output_format webp.",
                field="show",
            )
        place = self._place(wanted.output, None)
        written = await self._write([data for data, _ in files], place)
        seeds = ", ".join(str(picture.seed) for picture in result.pictures)
        sentences = [f"Painted with seed {seeds} in {result.steps} steps by {result.model}.", *result.warnings]
        facts = {"seeds": [picture.seed for picture in result.pictures], "steps": result.steps, "output": wanted.output}
        return _answer(" ".join(sentences) + written, files if wanted.show else [], facts)

    def _client(self, context: ToolContext) -> AsyncClient:
        return self._service.client(self._key_of(context))

    def _folders(self) -> Folders:
        if self._pictures.folders is None:
            raise InvalidParameterError("This server writes no files; leave output out.", field="output")
        return self._pictures.folders

    @staticmethod
    def _format_of(output: str | None) -> ImageFormat | None:
        if output is None:
            return None
        suffix = Path(output).suffix.lower().removeprefix(".")
        try:
            return ImageFormat("jpeg" if suffix == "jpg" else suffix)
        except ValueError:
            raise InvalidParameterError("output must end in .png, .webp, .jpg or .avif.", field="output") from None

    def _place(self, output: str | None, only: ImageFormat | None) -> Path | None:
        if output is None:
            return None
        if only is not None and self._format_of(output) is not only:
            raise InvalidParameterError(f"output must end in .{only}.", field="output")
        return self._folders().place("output", output)

    async def _write(self, files: list[bytes], place: Path | None) -> str:
        """Writes pictures, the second and further ones with a number; returns a sentence about it."""
        if place is None:
            return ""
        places = [
            place if number == 1 else place.with_name(f"{place.stem}-{number}{place.suffix}")
            for number in range(1, len(files) + 1)
        ]
        for each, data in zip(places, files, strict=True):
            await anyio.to_thread.run_sync(self._folders().write, "output", each, data)
        return f" Written to {', '.join(each.name for each in places)}."

    def _extended(self, file: bytes, sides: Sides, overlap: int) -> tuple[bytes, bytes]:
        larger, mask = extend(self._pictures.decode(file), sides, overlap, max_pixels=self._pictures.max_pixels)
        return codecs.encode(larger), encode_mask(mask)


@contextlib.contextmanager
def _in_words() -> Iterator[None]:
    """Has an assistant read what went wrong, and its code."""
    try:
        yield
    except (InpaintError, TimeoutError) as error:
        raise ToolError(f"{error} [{getattr(error, 'code', 'deadline_exceeded')}]") from error


@contextlib.asynccontextmanager
async def _reporting(context: ToolContext) -> AsyncIterator[Callable[[Progress], None]]:
    """Gives a callback whose progress the caller is notified of, each step once."""
    notices: set[asyncio.Task[None]] = set()
    last = -1

    def report(progress: Progress) -> None:
        nonlocal last
        job = progress.job
        if job.step > last:
            last = job.step
            notices.add(asyncio.ensure_future(context.report_progress(job.step, job.steps, _sentence(job))))

    try:
        yield report
    finally:
        await asyncio.gather(*notices, return_exceptions=True)


def _sentence(job: Job) -> str:
    if job.state == "queued":
        return f"Waiting, with {job.queue_position} canvases ahead."
    left = "" if job.seconds_left is None else f", about {job.seconds_left:.0f} seconds left"
    return f"{job.state.capitalize()}: step {job.step} of {job.steps}{left}."


def _describe(job: Job) -> CallToolResult:
    about = _sentence(job) if job.error is None else f"Failed: {job.error} [{job.error.code}]"
    facts = {name: getattr(job, name) for name in ("state", "step", "steps", "queue_position", "seconds_left", "seed")}
    return _answer(f"Job {job.id}. {about}", [], {"job_id": job.id, **facts})


def _answer(text: str, files: list[tuple[bytes, str]], facts: dict[str, object]) -> CallToolResult:
    kind: Literal["image"] = "image"
    shown = [
        ImageContent(type=kind, data=base64.b64encode(data).decode("ascii"), mime_type=media_type)
        for data, media_type in files
    ]
    return CallToolResult(content=[TextContent(type="text", text=text), *shown], structured_content=facts)
