"""What an operator may set: ``LOAD_SD_INPAINT`` and ``SD_INPAINT_*``, from the environment and from ``.env``."""

import os
import re
from pathlib import Path
from typing import Annotated, Literal, Self

from dotenv import dotenv_values
from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from sd_inpaint.errors import SettingsError

DEFAULT_MODEL = "runwayml/stable-diffusion-inpainting"
"""The model that the API guide names."""

DEMO_MODEL = "demo"
"""The small model that ships inside this package."""

ENV_PREFIX = "SD_INPAINT_"

_SECRETS = ("SD_INPAINT_STATE_URL", "SD_INPAINT_API_KEYS")

_ESCAPED = r"%(?!00)[0-9A-Fa-f]{2}"
_WORD = rf"(?:[\w.~!$&'()*+,;=-]|{_ESCAPED})"
_HOST = rf"(?:\[[0-9A-Fa-f:.]+\]|(?:[\w.-]|{_ESCAPED})*)(?::\d*)?"
_POSTGRES_URL = re.compile(
    rf"postgres(?:ql)?://(?:{_WORD}*(?::(?:{_WORD}|:)*)?@)?{_HOST}(?:,{_HOST})*(?:/{_WORD}*)?(?:\?(?:{_WORD}|[/:])*)?",
    re.ASCII,
)
"""RFC 3986, as far as libpq reads it."""


class Settings(BaseSettings):
    """An operator's settings, read once at start. Immutable; any thread may read it."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_file_encoding="utf-8",
        extra="ignore",
        frozen=True,
        populate_by_name=True,
        hide_input_in_errors=True,
    )

    load: bool = Field(default=True, validation_alias="LOAD_SD_INPAINT")
    """False serves no model: health says ``disabled``."""

    model: str = Field(default=DEFAULT_MODEL, min_length=1)
    """A Hub id, a folder in diffusers' layout, ``sd-inpaint:<version>`` in BentoML's model store, or ``demo``."""

    revision: str | None = None
    """Commit, branch or tag on the Hub; unset takes the pinned one of a known model, else ``main``."""

    offline: bool = False
    """True reaches for no network, whatever is missing."""

    allow_pickle: bool = False
    """True lets weights load that exist as pickle files only; such files can run code."""

    device: str = "auto"
    """``auto`` takes CUDA, then MPS, then the CPU."""

    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    """``auto`` takes float16 on CUDA and float32 elsewhere."""

    threads: int | None = Field(default=None, ge=1, le=1024)
    """CPU threads of the device loop; unset leaves torch's own choice."""

    max_batch: Literal["auto"] | Annotated[int, Field(ge=1, le=64)] = "auto"
    """Jobs that share one UNet call; ``auto`` is 1 on CPU and MPS, by free memory on CUDA."""

    max_canvas_pixels: Literal["auto"] | Annotated[int, Field(ge=4096)] = "auto"
    """Largest canvas the model works on, in pixels; ``auto`` follows the device's memory."""

    max_pixels: int = Field(default=50_000_000, ge=1)
    """Largest picture taken, width × height, checked before it is decoded."""

    max_body_bytes: int = Field(default=100 * 1024 * 1024, ge=1024)
    """Largest request body, in bytes."""

    max_queue: int = Field(default=32, ge=1)
    """Jobs that may wait or run at once; one more is answered 429."""

    max_queue_work: float = Field(default=2000.0, gt=0)
    """Work that may wait or run at once, in megapixel-steps: a 512×512 canvas at 50 steps is 13."""

    deadline_seconds: float = Field(default=3600.0, gt=0)
    """A job that has not ended by then is given up; a request may ask for less in ``X-Deadline-Seconds``."""

    drain_seconds: float = Field(default=300.0, ge=0)
    """How long running jobs may go on after SIGTERM."""

    result_ttl_seconds: float = Field(default=3600.0, gt=0)
    """How long a finished job's result is kept."""

    state_dir: Path | None = None
    """Folder for accepted jobs and their results; unset keeps them in the user's cache folder."""

    state_url: SecretStr | None = None
    """PostgreSQL database for accepted jobs and their results in place of a folder: several replicas share it."""

    cors_origins: Annotated[tuple[str, ...], NoDecode] = ("*",)
    """Origins a browser may call from, comma-separated; ``*`` is any, empty is none."""

    api_keys: Annotated[tuple[str, ...], NoDecode] = ()
    """Keys of which a request must carry one, comma-separated; empty asks for none."""

    safety_checker: Literal["auto", "on", "off"] = "auto"
    """``auto`` runs the model's safety checker where its weights are there; ``on`` refuses to start without."""

    metadata: bool = True
    """False leaves the parameters and provenance out of the result's file."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @field_validator("device")
    @classmethod
    def _names_a_device(cls, device: str) -> str:
        if not re.fullmatch(r"auto|cpu|mps|cuda(:\d{1,3})?", device):
            raise PydanticCustomError("device", "it is one of auto, cpu, mps, cuda, cuda:0, cuda:1, …")
        return device

    @field_validator("state_url")
    @classmethod
    def _reads_as_one_url(cls, url: SecretStr | None) -> SecretStr | None:
        # A password that is not percent-encoded is read as a host or a port, and would show up in the errors of those.
        if url is not None and not _POSTGRES_URL.fullmatch(url.get_secret_value()):
            raise PydanticCustomError(
                "state_url", "it is postgresql://user:password@host:port/database, other characters written as %XX"
            )
        return url

    @field_validator("cors_origins", "api_keys", mode="before")
    @classmethod
    def _split_commas(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @classmethod
    def read(cls, env_file: str | os.PathLike[str] | None = ".env") -> Self:
        """Reads the environment, then ``env_file`` for what the environment leaves unset.

        Raises:
            SettingsError: If a value is out of bounds or a ``SD_INPAINT_*`` name is unknown; one line says which.
        """
        known = {_setting_name((name,)) for name in cls.model_fields}
        names = {*os.environ, *(dotenv_values(env_file) if env_file else ())}
        unknown = sorted(n for n in names if n.upper().startswith(ENV_PREFIX) and n.upper() not in known)
        if unknown:
            raise SettingsError(f"Unknown setting {', '.join(unknown)}; known are {', '.join(sorted(known))}.")
        try:
            return cls(_env_file=env_file)  # type: ignore[call-arg]  # pydantic-settings adds it at run time
        except ValidationError as error:
            problems = "; ".join(f"{_shown(_setting_name(e['loc']), e['input'])}: {e['msg']}" for e in error.errors())
            raise SettingsError(f"Wrong setting: {problems}.") from error


def _setting_name(location: tuple[int | str, ...]) -> str:
    name = str(location[0]) if location else "?"
    return "LOAD_SD_INPAINT" if name in ("load", "LOAD_SD_INPAINT") else f"{ENV_PREFIX}{name}".upper()


def _shown(name: str, value: object) -> str:
    return name if name in _SECRETS else f"{name}={value!r}"
