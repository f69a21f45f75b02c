"""The only import of BentoML's and uvicorn's private modules; tests/http/bento/ reads what they rely on.

Their versions are pinned. uvicorn's protocol is chosen by name, ``auto``, when BentoML's worker starts it, after the
service was imported: whatever class stands in that module then is what serves.
"""

import os
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
import h11
from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml._internal.server.http.traffic import TimeoutMiddleware
from bentoml._internal.service.openapi.specification import Info, OpenAPISpecification, PathItem
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from uvicorn.protocols.http import auto
from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = [
    "H11Protocol",
    "Info",
    "OpenAPISpecification",
    "OpenTelemetryMiddleware",
    "PathItem",
    "TimeoutMiddleware",
    "h11",
    "httptools_protocol",
    "install_protocol",
    "is_supervisor",
    "listening_host",
    "metrics_home",
    "set_metrics_folder",
    "trust_proxies",
]

httptools_protocol: Any
try:
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
except ImportError:  # no wheel for this platform: h11 serves, in Python
    httptools_protocol = None
else:
    httptools_protocol = HttpToolsProtocol


def install_protocol(protocol: Any) -> None:
    """Has the server that starts next in this process speak HTTP by this class."""
    auto.AutoHTTPProtocol = protocol


def trust_proxies(proxies: Iterable[str]) -> None:
    """Has the server that starts next take the caller's address from ``X-Forwarded-For`` of these, and of no other."""
    # uvicorn's own variable; its default is whoever connects from this machine.
    os.environ["FORWARDED_ALLOW_IPS"] = ",".join(proxies)


def is_supervisor() -> bool:
    """Whether this process is ``bentoml serve``, which starts the workers."""
    context = click.get_current_context(silent=True)
    return context is not None and {"host", "bento"} <= context.params.keys()


def listening_host(default: str) -> str | None:
    """Returns the address that this process serves, or will have served; None where nothing is served.

    Args:
        default: What ``bentoml serve`` takes if neither ``--host`` nor ``BENTOML_HOST`` names one.
    """
    context = click.get_current_context(silent=True)
    if context is None:
        return None
    if is_supervisor():
        return str(context.params["host"] or default)
    if "fd" not in context.params:
        return None
    # The worker's own: a socket that the supervisor has bound. Its type is read off it; it stays open.
    listening = socket.socket(fileno=int(context.params["fd"]))
    try:
        return str(listening.getsockname()[0])
    finally:
        listening.detach()


def metrics_home() -> Path:
    """Returns the folder in which BentoML would keep all servers' metrics together."""
    return Path(BentoMLContainer.prometheus_multiproc_dir.get())


def set_metrics_folder(folder: Path) -> None:
    """Has ``bentoml serve`` give its workers this folder for their metrics."""
    BentoMLContainer.prometheus_multiproc_dir.set(str(folder))
