"""The page at ``/``, for people: a picture, a mask painted over it, a prompt. It uses the public endpoints."""

from collections.abc import Awaitable, Callable
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

_FOLDER = Path(__file__).parents[1] / "static"

_MEDIA_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}

_HEADERS = {
    # A newer server's page is met at the next visit.
    "Cache-Control": "no-cache",
    # Nothing from anywhere else, and nothing to anywhere else; pictures are shown from memory.
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'self'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

FILES = {"/": "index.html"} | {f"/page/{path.name}": path.name for path in _FOLDER.iterdir() if path.suffix != ".html"}
"""Path → file. Open to everybody, with or without a key: the page asks for one if it is needed."""


def page_routes() -> list[Route]:
    """Returns the routes of the page's files, which are read now."""
    return [Route(path, _answering(_FOLDER / name), methods=["GET"]) for path, name in sorted(FILES.items())]


def _answering(file: Path) -> Callable[[Request], Awaitable[Response]]:
    content, media_type = file.read_bytes(), _MEDIA_TYPES[file.suffix]

    async def get_file(request: Request) -> Response:
        return Response(content, media_type=media_type, headers=_HEADERS)

    return get_file
