"""Who paints for a command: a model in this process, or a server."""

import asyncio
import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self, TypeAlias

import sd_inpaint
from sd_inpaint.client import NO_RETRIES, Client, Progress, Result, ResultPicture, ServiceError
from sd_inpaint.errors import InpaintError
from sd_inpaint.schema import InpaintParameters
from sd_inpaint.settings import DEMO_MODEL

if TYPE_CHECKING:
    from sd_inpaint.progress import ProgressSnapshot

Report: TypeAlias = "Callable[[Stage], None]"

POLL_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Stage:
    """How far a picture is.

    Attributes:
        name: ``loading``, or a job's state.
        step: Denoising steps done.
        steps: Denoising steps in all; 0 while they are not known.
        seconds_left: An estimate, or None.
    """

    name: str
    step: int = 0
    steps: int = 0
    seconds_left: float | None = None


@dataclass(frozen=True, slots=True)
class Work:
    """One picture to paint.

    Attributes:
        image: The file.
        mask: The file.
        parameters: With the result's format.
        key: Names it for a server, so that a second call gets the first one's result; None paints it in any case.
    """

    image: bytes
    mask: bytes
    parameters: InpaintParameters
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Origin:
    """What would paint: :class:`~sd_inpaint.imaging.record.Record` has the same of what did."""

    version: str
    model: str
    weights_sha256: str
    device: str


class CommandPainter(Protocol):
    """Paints pictures for a command, one or several at once."""

    def paint(self, work: Work, report: Report) -> Result:
        """Paints a picture.

        Args:
            work: The files and the parameters.
            report: Is called when there is something new.

        Raises:
            InpaintError: Whatever keeps it from being painted.
        """

    def forget(self, result: Result) -> None:
        """Lets go of a result that has been written."""

    def origin(self, report: Report) -> Origin:
        """Says what would paint, once it is ready to."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


class ServerPainter:
    """Has a server paint, through its jobs. Any number of threads may use it.

    Args:
        server: Its address; the key comes from the environment.
        say: Gets a sentence when a request has to be sent again.

    Raises:
        ValueError: If the address is none.
    """

    def __init__(self, server: str, say: Callable[[str], None]) -> None:
        self._server = server
        self._client = Client(
            server, on_retry=lambda why, seconds: say(f"{why} Trying again in {max(1, round(seconds))} s.")
        )

    def paint(self, work: Work, report: Report) -> Result:
        """Paints a picture, as :meth:`CommandPainter.paint`."""

        def follow(progress: Progress) -> None:
            job = progress.job
            report(Stage(job.state, job.step, job.steps, job.seconds_left))

        options = work.parameters.model_dump(exclude_unset=True)
        prompt = options.pop("prompt")
        if work.key is None:
            return self._client.inpaint(work.image, work.mask, prompt, on_progress=follow, **options)
        attempt = 0
        while True:
            job = self._client.submit(work.image, work.mask, prompt, idempotency_key=f"{work.key}-{attempt}", **options)
            job = self._client.wait(job.id, on_progress=follow) if not job.has_ended else job
            if job.state == "done" or not job.was_there:
                return self._client.result(job.id)
            # An earlier run's, which failed or was cancelled: this one tries for itself.
            attempt += 1

    def forget(self, result: Result) -> None:
        """Deletes the job, which costs the server disk space."""
        if result.job_id is not None:
            try:
                self._client.cancel(result.job_id)
            except InpaintError:
                return  # it goes by itself in an hour

    def origin(self, report: Report) -> Origin:
        """Says what the server is."""
        from sd_inpaint.imaging.record import weights_digest

        info = self._client.info()
        return Origin(
            info["version"], info["model"], weights_digest(info.get("files") or {}), str(info.get("device") or "")
        )

    def __enter__(self) -> Self:
        # A wrong address is found at once; a server that goes away later is waited for.
        with Client(self._server, retries=NO_RETRIES) as client, contextlib.suppress(ServiceError):
            client.health()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._client.close()


class LocalPainter:
    """Paints with a model in this process, which is loaded at the first picture. For one thread.

    Args:
        model: Its name, in place of the setting's; None leaves the settings as they are.
        say: Gets a sentence where something takes long.

    Raises:
        SettingsError: If the settings cannot be used.
    """

    def __init__(self, model: str | None, say: Callable[[str], None]) -> None:
        # What a server does with a picture, but for HTTP.
        from sd_inpaint.http.endpoints.painting import Painting
        from sd_inpaint.imaging.credentials import load_credentials
        from sd_inpaint.painter import Painter
        from sd_inpaint.settings import Settings
        from sd_inpaint.work.picture_work import PictureWork

        if model is not None:
            os.environ["SD_INPAINT_MODEL"] = model
        self._settings = Settings.read()
        work = PictureWork()
        self._painter = Painter(self._settings, work)
        self._painting = Painting(
            self._painter,
            work,
            self._settings,
            load_credentials(self._settings.c2pa_certificate, self._settings.c2pa_key),
        )
        self._runner = asyncio.Runner()
        self._say = say
        self._is_started = False

    def paint(self, work: Work, report: Report) -> Result:
        """Paints a picture, as :meth:`CommandPainter.paint`."""
        return self._runner.run(self._paint(work, report))

    def forget(self, result: Result) -> None:
        """Has kept nothing."""

    def origin(self, report: Report) -> Origin:
        """Loads the model and says which one it is."""
        from sd_inpaint.imaging.record import weights_digest

        self._runner.run(self._load(report))
        info = self._painter.info()
        files = info["files"]
        digest = weights_digest(files if isinstance(files, dict) else {})
        return Origin(sd_inpaint.__version__, self._settings.model_name, digest, str(info["device"]))

    async def _paint(self, work: Work, report: Report) -> Result:
        from sd_inpaint.http.wire.formats import check_job_format
        from sd_inpaint.http.wire.results import encode_all, warnings
        from sd_inpaint.imaging import codecs
        from sd_inpaint.imaging.preparation import Upload
        from sd_inpaint.painter import with_seed
        from sd_inpaint.progress import Progress as Window

        image_format = check_job_format(work.parameters)
        await self._load(report)
        parameters = with_seed(work.parameters)
        upload = Upload(work.image, work.mask, parameters, self._settings.max_pixels)
        with await self._painter.admit(upload) as admitted:
            codecs.check_encodable(admitted.size, image_format)
            window = Window()
            reporting = asyncio.ensure_future(_report_on(window.snapshot, report))
            try:
                result = await self._painter.paint(admitted, progress=window)
            finally:
                reporting.cancel()
            files = encode_all(
                result,
                image_format,
                self._settings.model_name,
                self._painting.metadata(work.parameters),
                quality=parameters.quality,
                credentials=self._painting.credentials,
            )
        return Result(
            pictures=tuple(ResultPicture(file, image_format.media_type, seed) for seed, file in files),
            steps=result.steps,
            model=self._settings.model_name,
            inference_seconds=result.inference_seconds,
            regions=result.regions,
            plan=result.plan,
            warnings=tuple(warnings(result)),
            request_id="",
        )

    async def _load(self, report: Report) -> None:
        from sd_inpaint.engine.lifecycle import EngineState

        engine = self._painter.engine
        if not self._is_started:
            self._is_started = True
            if (model := self._settings.model_name) != DEMO_MODEL:
                self._say(f"Loading {model}. The first time, its weights are downloaded: 2 GB for the default model.")
            self._painter.start()
        while engine.state is EngineState.LOADING:
            report(Stage("loading"))
            await asyncio.sleep(POLL_SECONDS)
        if (refusal := engine.refusal()) is not None:
            raise refusal

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._painter.stop(0.0)
        self._runner.close()


async def _report_on(snapshot: "Callable[[], ProgressSnapshot]", report: Report) -> None:
    while True:
        now = snapshot()
        report(Stage(now.state, now.step, now.steps, now.seconds_left))
        await asyncio.sleep(POLL_SECONDS)
