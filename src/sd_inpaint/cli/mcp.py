"""``sd-inpaint mcp``: the service as tools of an assistant, by the Model Context Protocol."""

import contextlib
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sd_inpaint import environment
from sd_inpaint.cli.options import example
from sd_inpaint.cli.paint import check_server
from sd_inpaint.errors import SettingsError

if TYPE_CHECKING:
    from sd_inpaint.mcp.service import Service
    from sd_inpaint.settings import Settings

EXAMPLES = example(
    "sd-inpaint mcp --demo --root ~/Pictures",
    "sd-inpaint mcp --server https://example.org/paint",
    "sd-inpaint mcp --http --port 8010 --server http://127.0.0.1:8000",
)

# Empty, not left out: what a file .env in the current folder sets would come in their place.
NO_KEYS = {"SD_INPAINT_API_KEYS": "", "SD_INPAINT_API_KEYS_FILE": ""}


def mcp(
    server: Annotated[
        str | None,
        typer.Option(envvar=environment.SERVER, help="The service that paints.", show_default="one of its own"),
    ] = None,
    demo: Annotated[bool, typer.Option("--demo", help="Its own service has the small demo model.")] = False,
    root: Annotated[
        list[Path] | None,
        typer.Option(
            help="Folder that pictures are read from and written into; may be given again.",
            exists=True,
            file_okay=False,
            show_default="the current one",
        ),
    ] = None,
    http: Annotated[bool, typer.Option("--http", help="Serve over HTTP, at /mcp, in place of stdin.")] = False,
    host: Annotated[str, typer.Option(help="IP address to listen on, with --http.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on, with --http.")] = 8010,
) -> None:
    """Serve the Model Context Protocol: an assistant repaints pictures with this service.

    Over stdin and stdout, for the one program that starts it; with --http for many, with the service's own API keys.
    Only over stdin does it read and write files, in the folders of --root.
    """
    try:
        import mcp as sdk  # noqa: F401  # to say what is missing
    except ImportError:
        raise SettingsError("The MCP server needs more packages: pip install 'sd-inpaint[mcp]'.") from None
    if demo and server is not None:
        raise typer.BadParameter("--demo is for a service of its own; leave --server out.", param_hint="--demo")
    if http and root:
        raise typer.BadParameter("Over HTTP no files are read or written; leave --root out.", param_hint="--root")
    if server is not None:
        check_server(server)
    import anyio

    from sd_inpaint.settings import DEMO_MODEL, Settings

    # The service, which is a process of its own, is stopped on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    settings = Settings.read()
    chosen = {"SD_INPAINT_MODEL": DEMO_MODEL} if demo else {}
    if http:
        anyio.run(_serve_http, settings, server, chosen, host, port)
    else:
        anyio.run(_serve_stdio, settings, server, chosen, root or [Path()])


async def _serve_stdio(settings: "Settings", server: str | None, chosen: dict[str, str], roots: list[Path]) -> None:
    from sd_inpaint.mcp.folders import Folders
    from sd_inpaint.mcp.pictures import Pictures
    from sd_inpaint.mcp.tools import Tools

    pictures = Pictures(Folders(roots), max_bytes=settings.max_body_bytes, max_pixels=settings.max_pixels)
    # Whoever starts this process is its caller: there is nobody to ask for a key.
    async with _service(server, {**chosen, **NO_KEYS}) as service:
        await Tools(service, pictures).server().run_stdio_async()


async def _serve_http(settings: "Settings", server: str | None, chosen: dict[str, str], host: str, port: int) -> None:
    import uvicorn

    from sd_inpaint.http.bento.address import check_address, check_port
    from sd_inpaint.mcp.http_application import http_application, key_of
    from sd_inpaint.mcp.pictures import Pictures
    from sd_inpaint.mcp.tools import Tools

    check_address(host, settings)
    check_port(host, port)
    pictures = Pictures(None, max_bytes=settings.max_body_bytes, max_pixels=settings.max_pixels)
    async with _service(server, chosen) as service:
        tools = Tools(service, pictures, key_of if settings.needs_key else lambda context: None)
        # Two pictures in base64, and the words around them.
        app = http_application(tools.server(), settings, max_body_bytes=3 * settings.max_body_bytes)
        config = uvicorn.Config(app, host=host, port=port, log_level="warning", access_log=False, server_header=False)
        await uvicorn.Server(config).serve()


@contextlib.asynccontextmanager
async def _service(server: str | None, chosen: dict[str, str]) -> AsyncIterator["Service"]:
    from sd_inpaint.mcp.service import OwnService, RemoteService

    if server is not None:
        yield RemoteService(server)
        return
    own = OwnService({"SD_INPAINT_HOST": "127.0.0.1", **chosen})
    async with own.running():
        yield own
