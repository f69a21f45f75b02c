"""An operator's settings: ``LOAD_SD_INPAINT`` and ``SD_INPAINT_*``, from the environment and from ``.env``."""

import ipaddress
import os
import re
import sys
from pathlib import Path
from typing import Annotated, Literal, Self

from dotenv import dotenv_values
from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from sd_inpaint import environment
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

_PATH = re.compile(r"(?=.{1,256}$)(?:/(?!\.{1,2}(?:/|$))[\w.~@%+-]+)+/?", re.ASCII)


def cache_folder() -> Path:
    """Returns the folder in the user's cache where this service keeps what outlives it, unless it is told of another.

    Raises:
        RuntimeError: If the user has no home.
    """
    if cache := os.environ.get("XDG_CACHE_HOME"):
        return Path(cache) / "sd-inpaint"
    return Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "sd-inpaint"


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
    """False loads no model; health then reports ``disabled``."""

    model: str = Field(default=DEFAULT_MODEL, min_length=1)
    """A Hub id, a folder in diffusers' layout, ``sd-inpaint:<version>`` in BentoML's model store, or ``demo``."""

    revision: str | None = None
    """Commit, branch or tag on the Hub; by default the pinned commit of a known model, else ``main``."""

    offline: bool = False
    """True never uses the network, even if weights are missing."""

    allow_pickle: bool = False
    """True allows weights that exist only as pickle files, which can run code."""

    loras: Annotated[tuple[Path, ...], NoDecode] = ()
    """LoRAs that requests may name, comma-separated: safetensors files, or folders of them."""

    lcm_lora: str | None = None
    """The name of the LoRA among them that makes the model an LCM, for ``speed=fast``."""

    device: str = "auto"
    """``auto`` prefers CUDA, then MPS, then the CPU."""

    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    """``auto`` is float16 on CUDA, float32 on MPS, and on the CPU bfloat16 where a measurement finds it faster."""

    vae_dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    """Number format of the autoencoder; ``auto`` is that of the UNet."""

    workers: Literal["auto"] | Annotated[int, Field(ge=1, le=64)] = "auto"
    """Devices that paint, each with the model in a process of its own; ``auto`` is one for each CUDA card, and one
    elsewhere. One alone works in the server's own process."""

    compile: Literal["auto", "off", "regional", "full"] = "auto"
    """``regional`` compiles the networks' repeated blocks beside the service, ``full`` all of the UNet at the native
    size. ``auto`` is ``regional`` on CUDA where there is a C compiler, else ``off``, which keeps one plan for ever."""

    cuda_graphs: bool = True
    """False has CUDA launch every operation by itself."""

    threads: int | None = Field(default=None, ge=1, le=1024)
    """CPU threads of the device loop; unset leaves the choice to torch."""

    backend: Literal["auto", "torch", "openvino"] = "auto"
    """What computes the denoising steps; ``auto`` is OpenVINO on CPUs where it is installed and measured faster."""

    quantize: Literal["off", "int8"] = "off"
    """``int8`` has OpenVINO compute in INT8, once ``sd-inpaint models convert --int8`` has quantised the model."""

    cache_dir: Path | None = None
    """Folder for what is made of the weights once, such as the model converted for OpenVINO; by default that of the
    jobs."""

    max_batch: Literal["auto"] | Annotated[int, Field(ge=1, le=64)] = "auto"
    """Most canvases in one UNet call; ``auto`` is 1 on CPU and MPS, and depends on free memory on CUDA."""

    max_canvas_pixels: Literal["auto"] | Annotated[int, Field(ge=4096)] = "auto"
    """Largest canvas the model works on, in pixels; ``auto`` depends on the device's memory."""

    max_pixels: int = Field(default=52_000_000, ge=1)
    """Largest picture accepted, width × height, checked before it is decoded.

    Cameras that are said to have 50 megapixels give up to 51.3: 8160×6144 and 8192×6144 (phones), 8688×5792 (Canon
    5DS), 8256×6192 (Fujifilm GFX 50), 8272×6200 (Hasselblad X1D).
    """

    max_body_bytes: int = Field(default=100 * 1024 * 1024, ge=1024)
    """Largest request body, in bytes."""

    max_memory_bytes: int | None = Field(default=None, ge=64 * 1024 * 1024)
    """Memory of the process, weights included, in bytes; requests that do not fit wait or are refused. Unset takes nine
    tenths of the container's limit, else of the machine's memory."""

    max_state_bytes: int = Field(default=10 * 1024**3, ge=1024 * 1024)
    """Disk space for accepted jobs: uploads, results, and room for the results of those that wait."""

    max_queue: int = Field(default=32, ge=1)
    """How many canvases may wait or run at once, and how many accepted jobs; most requests need one canvas."""

    max_queue_work: float = Field(default=2000.0, gt=0)
    """Work that may wait or run at once, in megapixel-steps: a 512×512 canvas at 50 steps is 13."""

    deadline_seconds: float = Field(default=3600.0, gt=0)
    """A request or job that takes longer is given up; ``X-Deadline-Seconds`` may ask for less."""

    drain_seconds: float = Field(default=300.0, ge=0)
    """How long running jobs may continue after SIGTERM."""

    result_ttl_seconds: float = Field(default=3600.0, gt=0)
    """How long a finished job's result is kept."""

    state_dir: Path | None = None
    """Folder for accepted jobs and their results; by default in the user's cache folder."""

    state_url: SecretStr | None = None
    """PostgreSQL database for accepted jobs and their results, instead of a folder; replicas can share it."""

    host: str = "127.0.0.1"
    """IP address to listen on, where ``bentoml serve`` is given none; ``0.0.0.0`` is all of this machine's."""

    allow_open: bool = False
    """True starts also where other machines can reach the server and no key is needed."""

    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    """Names that requests may address this server by, comma-separated, beside IP addresses and private names. If
    empty, a server with keys takes any name."""

    trusted_proxies: Annotated[tuple[str, ...], NoDecode] = ()
    """Addresses and networks whose ``X-Forwarded-For`` names the caller, comma-separated."""

    max_connections: int = Field(default=1000, ge=8)
    """Connections at once; one more takes the place of one without a request, or is refused."""

    max_connections_per_address: int = Field(default=500, ge=4)
    """The same of one address, trusted proxies apart."""

    header_seconds: float = Field(default=10.0, gt=0)
    """How long a request's header may take to arrive."""

    min_body_rate: float = Field(default=1024.0, ge=0)
    """Least bytes of a body a second, over ten seconds; slower ones are answered 408. 0 waits for any."""

    cors_origins: Annotated[tuple[str, ...], NoDecode] = ("auto",)
    """Origins whose pages may call, comma-separated; ``*`` allows any, empty none. ``auto`` is any if a key is needed,
    else those on the browser's own machine."""

    root_path: str | None = None
    """Path below which a proxy serves this, such as ``/paint``; unset takes each request's ``X-Forwarded-Prefix``."""

    api_keys: Annotated[tuple[str, ...], NoDecode] = ()
    """API keys, comma-separated; a request must carry one of them. If empty, no key is needed."""

    api_keys_file: Path | None = None
    """File of more API keys, with names and limits, from ``scripts/keys``; read again when it changes. Then a request
    needs a key even if there is none in the file."""

    caller_requests_per_minute: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Requests a minute of one caller: an API key's name, or an address where no key is needed. 0 is no limit."""

    caller_concurrency: int = Field(default=0, ge=0)
    """Requests and unfinished jobs of one caller at once. 0 is no limit."""

    caller_megapixel_steps_per_hour: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Work for one caller in an hour, in megapixel-steps. 0 is no limit."""

    caller_kept_bytes: int = Field(default=0, ge=0)
    """Disk space for the uploads and results of one caller's jobs. 0 is no limit."""

    safety_checker: Literal["auto", "on", "off"] = "auto"
    """``auto`` runs the safety checker if the model has one; ``on`` refuses a model without one."""

    metadata: bool = True
    """False leaves the parameters and the provenance out of result files."""

    c2pa_certificate: Path | None = None
    """PEM file of the certificate that results are signed with as Content Credentials, and of those it is issued by."""

    c2pa_key: Path | None = None
    """PEM file of its private key."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe lines that are logged."""

    log_format: Literal["text", "json"] = "text"
    """``json`` writes one object a line: time, level, logger, message, and the ids of request and trace."""

    @property
    def needs_key(self) -> bool:
        """Whether a request needs an API key: where there is a file of keys it does, even if none is in it."""
        return bool(self.api_keys) or self.api_keys_file is not None

    @property
    def model_name(self) -> str:
        """The model as callers see it: the setting, or a folder's last part."""
        is_folder = Path(self.model).expanduser().is_absolute() or self.model.startswith(".")
        return Path(self.model).name or "model" if is_folder else self.model

    @field_validator("device")
    @classmethod
    def _names_a_device(cls, device: str) -> str:
        if not re.fullmatch(r"auto|cpu|mps|cuda(:\d{1,3})?", device):
            raise PydanticCustomError("device", "must be auto, cpu, mps, cuda, cuda:0, cuda:1, …")
        return device

    @field_validator("state_url")
    @classmethod
    def _reads_as_one_url(cls, url: SecretStr | None) -> SecretStr | None:
        # An unencoded password would be read as a host or a port, and appear in error messages about them.
        if url is not None and not _POSTGRES_URL.fullmatch(url.get_secret_value()):
            raise PydanticCustomError(
                "state_url", "must be postgresql://user:password@host:port/database, with special characters as %XX"
            )
        return url

    @field_validator("host")
    @classmethod
    def _is_an_address(cls, host: str) -> str:
        if not _is_network(host) or "/" in host:
            raise PydanticCustomError("host", "must be an IP address, such as 127.0.0.1 or 0.0.0.0")
        return host

    @field_validator("trusted_proxies")
    @classmethod
    def _are_networks(cls, proxies: tuple[str, ...]) -> tuple[str, ...]:
        if not all(map(_is_network, proxies)):
            raise PydanticCustomError("trusted_proxies", "must be IP addresses or networks, such as 10.0.0.0/8")
        return proxies

    @field_validator("root_path")
    @classmethod
    def _is_a_path(cls, path: str | None) -> str | None:
        if path in (None, "", "/"):
            return None
        if not is_path(path):
            raise PydanticCustomError("root_path", "must be a path that begins with a slash, such as /paint")
        return path

    @field_validator("loras", "cors_origins", "api_keys", "allowed_hosts", "trusted_proxies", mode="before")
    @classmethod
    def _split_commas(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("cache_dir", "state_dir", "api_keys_file", "c2pa_certificate", "c2pa_key", mode="before")
    @classmethod
    def _none_if_empty(cls, value: object) -> object:
        return None if value == "" else value

    @classmethod
    def read(cls, env_file: str | os.PathLike[str] | None = ".env") -> Self:
        """Reads the environment, then ``env_file`` for settings that the environment leaves unset.

        Raises:
            SettingsError: If a value is out of bounds or a ``SD_INPAINT_*`` name is unknown; the message names it.
        """
        known = {_setting_name((name,)) for name in cls.model_fields}
        others = known | {environment.KEY, environment.SERVER}
        names = {*os.environ, *(dotenv_values(env_file) if env_file else ())}
        unknown = sorted(n for n in names if n.upper().startswith(ENV_PREFIX) and n.upper() not in others)
        if unknown:
            raise SettingsError(f"Unknown setting {', '.join(unknown)}. Known settings: {', '.join(sorted(known))}.")
        try:
            return cls(_env_file=env_file)  # type: ignore[call-arg]  # pydantic-settings adds it at run time
        except ValidationError as error:
            problems = "; ".join(f"{_shown(_setting_name(e['loc']), e['input'])}: {e['msg']}" for e in error.errors())
            raise SettingsError(f"Invalid setting: {problems}.") from error


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return True


def is_path(text: str) -> bool:
    """Whether a text is a plain absolute path: no scheme, no host, no dot segments, nothing that ends a header."""
    return _PATH.fullmatch(text) is not None


def _setting_name(location: tuple[int | str, ...]) -> str:
    name = str(location[0]) if location else "?"
    return "LOAD_SD_INPAINT" if name in ("load", "LOAD_SD_INPAINT") else f"{ENV_PREFIX}{name}".upper()


def _shown(name: str, value: object) -> str:
    return name if name in _SECRETS else f"{name}={value!r}"
