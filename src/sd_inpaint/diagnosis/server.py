"""Whether a running service can be called, and what is wrong with it."""

import json
from http import HTTPStatus
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import sd_inpaint
from sd_inpaint.diagnosis.finding import Finding, good, problem, warning
from sd_inpaint.http.wire.paths import HEALTH, INFO

ANSWER_SECONDS = 10.0
"""How long a service may take to answer; it answers these in milliseconds."""


UNANSWERED = (OSError, HTTPException, ValueError)
"""What asking raises; see :func:`_ask`."""


def check_server(url: str, key: str | None) -> list[Finding]:
    """Asks a service how it is, then asks something that needs a key, with the key that is given.

    Args:
        url: Such as ``https://example.org/paint``.
        key: An API key; None sends none.
    """
    address = url.rstrip("/")
    if urlsplit(address).scheme not in ("http", "https") or not urlsplit(address).netloc:
        return [problem("server", f"{url} is not an address of a server.", "Write it like http://localhost:8000.")]
    try:
        status, health = _ask(address + HEALTH, None)
    except UNANSWERED as error:
        reason = getattr(error, "reason", error)
        return [problem("server", f"{address} does not answer ({reason}).", "Start it, or check address and port.")]
    if "service" not in health:
        sentence = f"{address} is another program: it answers {HEALTH} with {status}, and not as this service does."
        return [problem("server", sentence, "Check address, port and path.")]
    findings = [_state(address, status, health)]
    return [*findings, *_check_key(address, key)]


def _state(address: str, status: int, health: dict[str, Any]) -> Finding:
    if status != HTTPStatus.OK:
        sentence = str(health.get("reason") or health.get("error") or f"It answers {status}.")
        remedy = "Wait until it has loaded." if health.get("status") == "loading" else "See its log."
        return problem("server", f"{address} does not serve: {sentence}", remedy)
    if problems := health.get("problems"):
        return warning("server", f"{address}: " + " ".join(str(each["message"]) for each in problems), "See its log.")
    return good("server", f"{address} serves {health.get('model')}.")


def _check_key(address: str, key: str | None) -> list[Finding]:
    try:
        status, info = _ask(address + INFO, key)
    except UNANSWERED as error:
        return [problem("key", f"{address}{INFO} does not answer: {error}.", "See the server's log.")]
    if status == HTTPStatus.UNAUTHORIZED:
        if key is None:
            return [problem("key", "The service needs an API key, and none was given.", "Set SD_INPAINT_KEY.")]
        remedy = "Set SD_INPAINT_KEY to a key of this service; on its machine, sd-inpaint keys list shows their names."
        return [problem("key", "The service does not know the API key, or it has expired.", remedy)]
    if status != HTTPStatus.OK:
        return [problem("key", f"{INFO} answers {status}: {info.get('error', '')}", "See the server's log.")]
    finding = good("key", "The API key is good." if key else "The service needs no API key.")
    if (other := info.get("version", sd_inpaint.__version__)) != sd_inpaint.__version__:
        sentence = f"The service runs {other}, this is {sd_inpaint.__version__}."
        return [finding, warning("version", sentence, "Update the older of the two.")]
    return [finding]


def _ask(url: str, key: str | None) -> tuple[int, dict[str, Any]]:
    """Returns the status and the JSON object of an answer; an empty one where the answer is something else.

    Raises:
        OSError, HTTPException, ValueError: If nothing answers in HTTP, or the address or the key cannot be sent.
    """
    sent = (key or "").encode("utf-8").decode("latin-1")  # a key's bytes, as the service compares them
    request = Request(url, headers={} if key is None else {"X-API-Key": sent})  # noqa: S310  # its scheme was looked at
    try:
        with urlopen(request, timeout=ANSWER_SECONDS) as answer:  # noqa: S310  # as above
            status, body = answer.status, answer.read()
    except HTTPError as error:
        with error:
            status, body = error.code, error.read()
    try:
        held = json.loads(body)
    except ValueError:
        return status, {}
    return status, held if isinstance(held, dict) else {}
