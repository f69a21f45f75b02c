"""Whether the address can be listened on, and who could call."""

from sd_inpaint.diagnosis.finding import Finding, good, problem
from sd_inpaint.errors import SettingsError
from sd_inpaint.http.bento.address import check_address, check_port, is_loopback
from sd_inpaint.settings import Settings


def check_listening(settings: Settings, host: str, port: int) -> list[Finding]:
    """Binds the port for a moment, and looks whether other machines could call without a key."""
    try:
        check_port(host, port)
        port_finding = good("port", f"{port} of {host} is free.")
    except SettingsError as error:
        sentence, _, remedy = str(error).partition("). ")
        port_finding = problem("port", f"{sentence}).", remedy)
    try:
        check_address(host, settings)
    except SettingsError as error:
        sentence, _, remedy = str(error).partition(". ")
        return [port_finding, problem("access", f"{sentence}.", remedy)]
    who = "Only programs on this machine" if is_loopback(host) else f"Every machine that reaches {host}"
    how = "with an API key" if settings.needs_key else "without an API key"
    return [port_finding, good("access", f"{who} can call, {how}.")]
