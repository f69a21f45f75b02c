"""What an operator may set, and how a mistake is told."""

import traceback
from pathlib import Path

import pytest
from pydantic import ValidationError

from sd_inpaint.errors import SettingsError
from sd_inpaint.settings import DEFAULT_MODEL, Settings


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """Removes what the outer environment sets."""
    import os

    for name in list(os.environ):
        if name.startswith(("SD_INPAINT_", "LOAD_SD_INPAINT")):
            monkeypatch.delenv(name)


def test_defaults_are_the_guides() -> None:
    """With nothing set, the guide's model is served."""
    settings = Settings.read(env_file=None)
    assert settings.load
    assert settings.model == DEFAULT_MODEL == "runwayml/stable-diffusion-inpainting"


def test_environment_goes_before_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``.env`` fills what the environment leaves unset; names of others in it are none of our business."""
    env_file = tmp_path / ".env"
    env_file.write_text("LOAD_SD_INPAINT=false\nSD_INPAINT_MODEL=demo\nSD_INPAINT_DEVICE=cpu\nOTHER=1\n", "utf-8")
    monkeypatch.setenv("SD_INPAINT_MODEL", "elsewhere")
    settings = Settings.read(env_file)
    assert (settings.load, settings.model, settings.device) == (False, "elsewhere", "cpu")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LOAD_SD_INPAINT", "perhaps"),
        ("SD_INPAINT_DEVICE", "gpu"),
        ("SD_INPAINT_DTYPE", "int8"),
        ("SD_INPAINT_MODEL", ""),
        ("SD_INPAINT_MAX_PIXELS", "0"),
        ("SD_INPAINT_MAX_PIXELS", "many"),
        ("SD_INPAINT_MAX_BATCH", "0"),
        ("SD_INPAINT_MAX_QUEUE", "-1"),
        ("SD_INPAINT_DEADLINE_SECONDS", "0"),
        ("SD_INPAINT_DRAIN_SECONDS", "-1"),
        ("SD_INPAINT_SAFETY_CHECKER", "maybe"),
        ("SD_INPAINT_LOG_LEVEL", "loud"),
        ("SD_INPAINT_ROOT_PATH", "paint"),
        ("SD_INPAINT_ROOT_PATH", "http://example.org/paint"),
        ("SD_INPAINT_ROOT_PATH", "//example.org"),
        ("SD_INPAINT_ROOT_PATH", "/a/../b"),
    ],
)
def test_wrong_value_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """A value out of bounds names its setting and itself, in one line."""
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as wrong:
        Settings.read(env_file=None)
    assert name in str(wrong.value)
    assert repr(value) in str(wrong.value)
    assert "\n" not in str(wrong.value)


def test_unknown_name_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A misspelt setting does not do nothing in silence."""
    monkeypatch.setenv("SD_INPAINT_DEVISE", "cpu")
    with pytest.raises(SettingsError, match="SD_INPAINT_DEVISE"):
        Settings.read(env_file=None)


def test_unknown_name_in_the_file_is_an_error(tmp_path: Path) -> None:
    """A misspelt setting in ``.env`` is told as well."""
    env_file = tmp_path / ".env"
    env_file.write_text("SD_INPAINT_DEVISE=cpu\n", "utf-8")
    with pytest.raises(SettingsError, match="SD_INPAINT_DEVISE"):
        Settings.read(env_file)


def test_lists_are_split_at_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    """Origins and keys are given as a comma-separated list."""
    monkeypatch.setenv("SD_INPAINT_CORS_ORIGINS", "https://a.example, https://b.example")
    assert Settings.read(env_file=None).cors_origins == ("https://a.example", "https://b.example")


@pytest.mark.parametrize(("value", "path"), [("", None), ("/", None), ("/paint", "/paint"), ("/a/b.c/", "/a/b.c/")])
def test_root_path(monkeypatch: pytest.MonkeyPatch, value: str, path: str | None) -> None:
    """A blank or a bare slash is no prefix."""
    monkeypatch.setenv("SD_INPAINT_ROOT_PATH", value)
    assert Settings.read(env_file=None).root_path == path


@pytest.mark.parametrize("name", ["API_KEYS_FILE", "STATE_DIR", "CACHE_DIR", "C2PA_KEY"])
def test_an_empty_value_undoes_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """What a file sets, an empty value in the environment takes back; no setting is a path to nowhere."""
    (tmp_path / ".env").write_text(f"SD_INPAINT_{name}=somewhere\n", "utf-8")
    assert getattr(Settings.read(tmp_path / ".env"), name.lower()) is not None
    monkeypatch.setenv(f"SD_INPAINT_{name}", "")
    assert getattr(Settings.read(tmp_path / ".env"), name.lower()) is None


def test_settings_cannot_be_changed() -> None:
    """Settings are read once and stay."""
    with pytest.raises(ValidationError):
        Settings().model = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://painter:s3cret@db/jobs",
        "postgres://db",
        "postgresql:///jobs?host=/run/postgresql",
        "postgresql://painter:p%40ss%2Fw%3Ard@[fd00::1]:5432/jobs?sslmode=verify-full&sslrootcert=/etc/ca.pem",
        "postgresql://painter:s3cret@one:5432,two:5433/jobs?target_session_attrs=read-write",
        "postgresql://u:,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,@,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,/jobs",
    ],
)
def test_database_urls(url: str) -> None:
    """Whatever libpq takes is taken, and is shown to nobody who looks at the settings."""
    settings = Settings(_env_file=None, state_url=url)  # type: ignore[call-arg]
    assert settings.state_url is not None
    assert settings.state_url.get_secret_value() == url
    assert "s3cret" not in f"{settings} {settings!r}"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "s3cret",
        "mysql://painter:s3cret@db/jobs",
        "postgresql://painter:s3cret@more@db/jobs",
        "postgresql://painter:s3cret/more@db/jobs",
        "postgresql://painter:12/s3cret@db/jobs",
        "postgresql://painter:s3cret#more@db/jobs",
        "postgresql://painter:s3cret?more@db/jobs",
        "postgresql://painter:s3cret%zz@db/jobs",
        "postgresql://painter:s3cret%00@db/jobs",
        "postgresql://painter:s3cret@db:port/jobs",
        "postgresql://painter:s3cret@db/jobs\n",
        "postgresql://u:p@,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,s3cret!",
    ],
)
def test_wrong_database_url_is_not_shown(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """What would be read otherwise than it is meant stops the start, and the password is in no message and no trace."""
    monkeypatch.setenv("SD_INPAINT_STATE_URL", url)
    with pytest.raises(SettingsError) as wrong:
        Settings.read(env_file=None)
    trace = "".join(traceback.format_exception(wrong.value))
    assert "SD_INPAINT_STATE_URL: must be postgresql://" in str(wrong.value)
    assert "s3cret" not in str(wrong.value) + trace


def test_api_keys_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong setting beside them does not bring the keys into the message."""
    monkeypatch.setenv("SD_INPAINT_API_KEYS", "s3cret")
    monkeypatch.setenv("SD_INPAINT_DEVICE", "gpu")
    with pytest.raises(SettingsError) as wrong:
        Settings.read(env_file=None)
    assert "s3cret" not in "".join(traceback.format_exception(wrong.value))
