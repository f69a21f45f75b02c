"""The server over HTTP, behind the guards of the service itself: its keys, its limits, its Host and Origin rules."""

from typing import Any

from mcp.server.mcpserver import MCPServer
from mcp.server.transport_security import TransportSecuritySettings
from starlette.applications import Starlette
from starlette.middleware import Middleware

from sd_inpaint.callers.accounts import Accounts
from sd_inpaint.http.application import make_keyring
from sd_inpaint.http.middleware.access_log import AccessLog
from sd_inpaint.http.middleware.api_keys import ApiKeys
from sd_inpaint.http.middleware.caller_usage import CallerUsage
from sd_inpaint.http.middleware.cors import AllowedOrigins
from sd_inpaint.http.middleware.error_shape import ErrorShape
from sd_inpaint.http.middleware.origins import Hosts, Origins
from sd_inpaint.mcp.tools import ToolContext
from sd_inpaint.settings import Settings

PATH = "/mcp"


def http_application(server: MCPServer[Any], settings: Settings, *, max_body_bytes: int) -> Starlette:
    """Returns the application that serves tools at ``/mcp``.

    Each request stands alone: there are no sessions that a second caller could take up.

    Args:
        server: Has the tools.
        settings: The operator's.
        max_body_bytes: The most that a request may have.

    Raises:
        SettingsError: If the file of keys cannot be used.
    """
    app = server.streamable_http_app(
        streamable_http_path=PATH,
        stateless_http=True,
        max_request_body_size=max_body_bytes,
        # Ours are outside of it.
        transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False),
    )
    keyring = make_keyring(settings)
    accounts = Accounts(keyring.limits_of)
    origins = AllowedOrigins(settings.cors_origins, needs_key=settings.needs_key)
    checks_hosts = not settings.needs_key or bool(settings.allowed_hosts)
    app.user_middleware[:0] = [
        Middleware(AccessLog),
        Middleware(ErrorShape),
        *([Middleware(Hosts, names=settings.allowed_hosts)] if checks_hosts else []),
        Middleware(Origins, origins=origins),
        Middleware(ApiKeys, keyring=keyring, exempt=(), accounts=accounts),
        Middleware(CallerUsage, accounts=accounts, exempt=()),
    ]
    return app


def key_of(context: ToolContext) -> str | None:
    """Returns the key that a call came with: the service gets it too, so that jobs and limits are its caller's own."""
    headers = context.headers or {}
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return token.strip() or None
    return headers.get("x-api-key")
