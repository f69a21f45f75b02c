"""The operator's API keys, and the certificate that results are signed with."""

import stat
from pathlib import Path

from sd_inpaint.callers.key_file import KeyFile
from sd_inpaint.condition import EXPIRY_WARNING_DAYS
from sd_inpaint.diagnosis.finding import Finding, good, problem, warning
from sd_inpaint.errors import SettingsError
from sd_inpaint.imaging.credentials import load_credentials
from sd_inpaint.settings import Settings


def check_keys(settings: Settings) -> Finding:
    """Reads the file of keys, and counts those that are good now."""
    own = len(settings.api_keys)
    if (path := settings.api_keys_file) is None:
        return good("keys", f"{own} in SD_INPAINT_API_KEYS." if own else "None are set; requests need no key.")
    try:
        count = len(KeyFile(path).good_keys())
    except SettingsError as error:
        return problem(
            "keys", f"{path}: {error}", f"Mend the file, or make one: sd-inpaint keys add NAME --file {path}."
        )
    if not count and not own:
        sentence = f"{path} has no key that is good: every request is refused."
        return problem("keys", sentence, f"Make one: sd-inpaint keys add NAME --file {path}.")
    if _others_may_write(path):
        return warning("keys", f"Other users of this machine can change {path}.", f"chmod 600 {path}")
    return good("keys", f"{count} good in {path}" + (f", {own} in SD_INPAINT_API_KEYS." if own else "."))


def check_credentials(settings: Settings) -> Finding:
    """Signs something with the certificate and the key, if they are set."""
    try:
        credentials = load_credentials(settings.c2pa_certificate, settings.c2pa_key)
    except SettingsError as error:
        remedy = "Set both SD_INPAINT_C2PA_CERTIFICATE and SD_INPAINT_C2PA_KEY to files that fit, or neither."
        return problem("C2PA", str(error), remedy)
    if credentials is None:
        return good("C2PA", "No certificate is set; results are not signed.")
    if (days := credentials.days_left) < EXPIRY_WARNING_DAYS:
        return warning("C2PA", f"The certificate expires in {days} days.", "Renew it and restart the service.")
    return good("C2PA", f"Results are signed; the certificate is good for {days} days.")


def _others_may_write(path: Path) -> bool:
    return bool(path.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH))
