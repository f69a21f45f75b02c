"""The page at ``/``, for people: a picture, a mask painted over it, a prompt. It uses the public endpoints."""

import gzip
from collections.abc import Awaitable, Callable
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sd_inpaint.http.wire.minified import minified

_FOLDER = Path(__file__).parents[1] / "static"

_MEDIA_TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
    ".jpg": "image/jpeg",
    ".png": "image/png",
    ".md": "text/markdown",
}

_HEADERS = {
    # A newer server's page is met at the next visit.
    "Cache-Control": "no-cache",
    # Nothing from anywhere else, and nothing to anywhere else; pictures are shown from memory.
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'self'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

FILES = {"/": "index.html"} | {
    f"/page/{path.relative_to(_FOLDER)}": str(path.relative_to(_FOLDER))
    for path in sorted(_FOLDER.rglob("*"))
    if path.suffix in _MEDIA_TYPES and path.suffix != ".html"
}
"""Path → file. Open to everybody, with or without a key: the page asks for one if it is needed."""

_PRELOADS = "<!--modulepreload-->"
"""Stands in the page where all its modules are named: without that, a browser finds them one after another."""


def page_routes() -> list[Route]:
    """Returns the routes of the page's files, which are read now."""
    return [Route(path, _answering(_FOLDER / name), methods=["GET"]) for path, name in sorted(FILES.items())]


def _answering(file: Path) -> Callable[[Request], Awaitable[Response]]:
    content, media_type = _content(file), _MEDIA_TYPES[file.suffix]
    # Pictures are compressed already.
    packed = gzip.compress(content, mtime=0) if media_type.startswith("text/") else None

    async def get_file(request: Request) -> Response:
        if packed is not None and "gzip" in request.headers.get("accept-encoding", ""):
            headers = _HEADERS | {"Content-Encoding": "gzip", "Vary": "Accept-Encoding"}
            return Response(packed, media_type=media_type, headers=headers)
        return Response(content, media_type=media_type, headers=_HEADERS)

    return get_file


def _content(file: Path) -> bytes:
    if file.suffix not in (".html", ".css", ".js"):
        return file.read_bytes()
    links = (f'<link rel="modulepreload" href="{path[1:]}">' for path in sorted(FILES) if path.endswith(".js"))
    return minified(file.read_text("utf-8").replace(_PRELOADS, "".join(links)), file.suffix).encode()
