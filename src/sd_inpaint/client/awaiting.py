"""The same client for programs with an event loop."""

import asyncio
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import httpx

from sd_inpaint.client import flows
from sd_inpaint.client.connection import Target, answer_of, unreachable
from sd_inpaint.client.exchange import Answer, Flow, Follow, Send, Sleep
from sd_inpaint.client.flows import OnProgress, Patience
from sd_inpaint.client.options import Options, read_options
from sd_inpaint.client.results import Job, Result
from sd_inpaint.client.retries import Notify, Retries
from sd_inpaint.client.uploads import ImageInput, file_of

T = TypeVar("T")


class AsyncClient:
    """Calls the service. Any number of tasks of one event loop may use it at once; connections are used again.

    Close it with ``aclose``, or use it in an ``async with`` statement. Callbacks are plain functions, called in the
    event loop.

    Every method raises :class:`~sd_inpaint.errors.InpaintError`: the service's errors by their codes, and
    :class:`~sd_inpaint.client.NoAnswerError` if none comes.

    Args:
        server: Its address, with the path under which a proxy serves it, such as ``https://example.org/paint``; by
            default ``SD_INPAINT_SERVER`` of the environment, else ``http://localhost:8000``.
        key: The API key; by default ``SD_INPAINT_KEY`` of the environment.
        retries: How long it goes on trying.
        on_retry: Gets a sentence and the seconds before each wait for another try.
        transport: For tests, and what httpx cannot do by itself.
    """

    def __init__(
        self,
        server: str | None = None,
        *,
        key: str | None = None,
        retries: Retries | None = None,
        on_retry: Notify | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._target = Target(server, key)
        self._patience = Patience(retries or Retries(), on_retry)
        self._http = httpx.AsyncClient(transport=transport, **self._target.arguments())

    @property
    def server(self) -> str:
        """The address that is called."""
        return self._target.server

    async def inpaint(
        self,
        image: ImageInput,
        mask: ImageInput,
        prompt: str,
        *,
        on_progress: OnProgress | None = None,
        timeout: float | None = None,  # noqa: ASYNC109  # it ends the job too
        idempotency_key: str | None = None,
        **options: Unpack[Options],
    ) -> Result:
        """Repaints the white part of the mask, and waits for it. However often it has to try, it is painted once.

        Args:
            image: A path, a file's bytes, a Pillow picture or an array.
            mask: The same, of the same size: white is repainted, black kept, grey blended.
            prompt: The content of the repainted area.
            on_progress: Is called for each change; see :class:`~sd_inpaint.client.Progress`.
            timeout: Seconds to wait at most, once the job is accepted.
            idempotency_key: Names the request, so that a later call gets the same result while the service has it. By
                default it is a new one, and the job is removed in the end, also if this call is broken off.
            options: Everything else; docs/api.md has each field.

        Raises:
            TimeoutError: If it takes longer than ``timeout``.
        """
        files = await _files_of(image, mask)
        parameters = read_options(prompt, options)
        return await self._run(flows.inpaint(files, parameters, idempotency_key, self._patience, on_progress, timeout))

    async def submit(
        self,
        image: ImageInput,
        mask: ImageInput,
        prompt: str,
        *,
        idempotency_key: str | None = None,
        **options: Unpack[Options],
    ) -> Job:
        """Has a job accepted, and returns it at once; arguments as for :meth:`inpaint`."""
        files = await _files_of(image, mask)
        return await self._run(flows.submit(files, read_options(prompt, options), idempotency_key, self._patience))

    async def wait(
        self,
        job_id: str,
        *,
        on_progress: OnProgress | None = None,
        timeout: float | None = None,  # noqa: ASYNC109  # as above
    ) -> Job:
        """Follows a job until it is done, failed or cancelled; connects again as often as needed.

        Raises:
            TimeoutError: If it has not ended after ``timeout`` seconds; the job goes on.
        """
        return await self._run(flows.wait(job_id, self._patience, on_progress, timeout))

    async def job(self, job_id: str) -> Job:
        """Looks a job up."""
        return await self._run(flows.get_job(job_id, self._patience))

    async def result(self, job_id: str) -> Result:
        """Returns a job's result, or raises what it failed with; :class:`JobNotReadyError` until it has ended."""
        return await self._run(flows.get_result(job_id, self._patience))

    async def cancel(self, job_id: str) -> None:
        """Cancels a job, or deletes the result of one that has ended."""
        await self._run(flows.cancel(job_id, self._patience))

    async def preview(self, image: ImageInput) -> tuple[bytes, tuple[int, int]]:
        """Returns a small PNG of a picture as the service sees it, and the (width, height) that its mask needs."""
        file = await asyncio.to_thread(file_of, image, "image")
        return await self._run(flows.preview(file, self._patience))

    async def health(self) -> dict[str, Any]:
        """Returns what the service says of its health; raises its error if it cannot serve."""
        return await self._run(flows.get_json(flows.HEALTH, self._patience))

    async def info(self) -> dict[str, Any]:
        """Returns facts about the model, the limits and the parameters."""
        return await self._run(flows.get_json(flows.INFO, self._patience))

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _run(self, flow: Flow[T]) -> T:
        try:
            command = next(flow)
            while True:
                try:
                    outcome = await self._do(command)
                except httpx.TransportError as error:
                    command = flow.throw(unreachable(error, self.server))
                except BaseException as error:  # noqa: BLE001  # the flow raises it again, and may have something to undo
                    command = flow.throw(error)
                else:
                    command = flow.send(outcome)
        except StopIteration as stop:
            value: T = stop.value
            return value

    async def _do(self, command: Send | Follow | Sleep) -> Answer | None:
        if isinstance(command, Sleep):
            await asyncio.sleep(command.seconds)
            return None
        request = self._http.build_request(**self._target.request(command.request))
        if isinstance(command, Send):
            response = await self._http.send(request)
            return answer_of(response, response.content)
        response = await self._http.send(request, stream=True)
        try:
            if response.status_code != 200:
                return answer_of(response, await response.aread())
            async for line in response.aiter_lines():
                if command.take(line):
                    break
            return answer_of(response)
        finally:
            await response.aclose()


async def _files_of(image: ImageInput, mask: ImageInput) -> dict[str, bytes]:
    """Both files, in a thread: to write a PNG takes seconds of many megapixels."""
    return {
        "image": await asyncio.to_thread(file_of, image, "image"),
        "mask": await asyncio.to_thread(file_of, mask, "mask"),
    }
