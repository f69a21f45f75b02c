"""A client of the service, for Python: docs/client.md.

    from sd_inpaint.client import Client

    with Client("http://localhost:8000") as client:
        client.inpaint("photo.jpg", "mask.png", "a red rose").image.save("result.png")

It loads nothing of the model: no torch, and no server.
"""

from sd_inpaint.client.awaiting import AsyncClient
from sd_inpaint.client.blocking import Client
from sd_inpaint.client.errors import NoAnswerError, ServiceError
from sd_inpaint.client.options import Options
from sd_inpaint.client.results import Job, Progress, Result, ResultPicture
from sd_inpaint.client.retries import NO_RETRIES, Retries
from sd_inpaint.client.uploads import ImageInput

__all__ = [
    "NO_RETRIES",
    "AsyncClient",
    "Client",
    "ImageInput",
    "Job",
    "NoAnswerError",
    "Options",
    "Progress",
    "Result",
    "ResultPicture",
    "Retries",
    "ServiceError",
]
