"""The address that is served: who can reach it, and whether that was meant."""

import ipaddress
import logging
import os
import socket

from sd_inpaint.errors import SettingsError
from sd_inpaint.settings import Settings

logger = logging.getLogger("bentoml.sd_inpaint.http")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address, given as an IP address or as ``localhost``."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_address(host: str | None, settings: Settings) -> None:
    """Refuses to serve other machines without keys, unless the operator says so.

    Args:
        host: As :func:`is_loopback` takes it; None where nothing is served.
        settings: The operator's.

    Raises:
        SettingsError: If other machines reach the address, and need no key.
    """
    if host is None or is_loopback(host) or settings.needs_key or settings.allow_open:
        return
    raise SettingsError(
        f"Every machine that reaches {host} could use this server, which has no API keys. Set SD_INPAINT_API_KEYS, "
        "or listen on 127.0.0.1, or allow it with SD_INPAINT_ALLOW_OPEN=true."
    )


def check_port(host: str, port: int) -> None:
    """Refuses a port that cannot be listened on; BentoML would say so in a traceback.

    Raises:
        SettingsError: If it is taken, is kept for root, or the address is none of this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise SettingsError(
                f"Port {port} of {host} cannot be used ({os.strerror(error.errno or 0)}). "
                f"Stop the program that has it, or choose another port: sd-inpaint serve --port {port + 1}."
            ) from error


def log_address(host: str | None, settings: Settings) -> None:
    """Says in the log who can call; BentoML writes "localhost" for every address."""
    if host is None:
        return
    who = "with an API key" if settings.needs_key else "without an API key"
    if is_loopback(host):
        logger.info("Listening on %s: programs on this machine can call, %s.", host, who)
    else:
        level = logging.INFO if settings.needs_key else logging.WARNING
        logger.log(level, "Listening on %s: every machine that reaches it can call, %s.", host, who)
