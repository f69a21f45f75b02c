"""API keys, and the certificate that results are signed with."""

from pathlib import Path

import pytest

from sd_inpaint.callers import key_edits
from sd_inpaint.diagnosis.finding import State
from sd_inpaint.diagnosis.secrets import check_credentials, check_keys
from sd_inpaint.settings import Settings
from tests.support.certificates import issue


def settings(**changes: object) -> Settings:
    """An operator's settings, but for the changes the defaults."""
    return Settings(_env_file=None, **changes)  # type: ignore[arg-type,call-arg]


@pytest.mark.parametrize(
    ("text", "mode", "state", "words"),
    [
        (key_edits.add("", "app", {})[0], 0o600, State.GOOD, "1 good in"),
        (key_edits.add("", "app", {})[0], 0o666, State.WARNING, "Other users"),
        (key_edits.add("", "app", {}, expires_days=-1)[0], 0o600, State.PROBLEM, "no key that is good"),
        ("", 0o600, State.PROBLEM, "no key that is good"),
        ("[[key", 0o600, State.PROBLEM, "not TOML"),
        (None, 0o600, State.PROBLEM, "cannot be read"),
    ],
)
def test_file_of_keys(tmp_path: Path, text: str | None, mode: int, state: State, words: str) -> None:
    """A file without a good key locks everybody out; one that others can change lets anybody in."""
    path = tmp_path / "keys.toml"
    if text is not None:
        path.write_text(text)
        path.chmod(mode)
    finding = check_keys(settings(api_keys_file=path))
    assert finding.state is state
    assert words in finding.sentence


def test_keys_of_the_environment() -> None:
    """Keys are counted and not shown."""
    finding = check_keys(settings(api_keys="first,second"))
    assert finding.state is State.GOOD
    assert finding.sentence == "2 in SD_INPAINT_API_KEYS."


@pytest.mark.parametrize(("days", "state"), [(365, State.GOOD), (5, State.WARNING), (-5, State.PROBLEM)])
def test_certificate(tmp_path: Path, days: int, state: State) -> None:
    """A certificate that ends soon is a warning, one that has ended a problem."""
    files = issue(tmp_path, days=days)
    assert check_credentials(settings(c2pa_certificate=files.certificate, c2pa_key=files.key)).state is state


def test_half_a_certificate(tmp_path: Path) -> None:
    """A certificate without its key is a problem; none of both is not."""
    files = issue(tmp_path)
    assert check_credentials(settings(c2pa_certificate=files.certificate)).state is State.PROBLEM
    assert check_credentials(settings()).state is State.GOOD
