"""Everything that serves, made of the operator's settings: what answers, what surrounds it, start, drain and stop."""

import logging
import warnings
from collections.abc import Callable, Iterator
from importlib.util import find_spec

from starlette.applications import Starlette
from starlette.middleware import Middleware

from sd_inpaint.callers.accounts import Accounts
from sd_inpaint.callers.key_file import KeyFile
from sd_inpaint.callers.keyring import Keyring
from sd_inpaint.callers.limits import CallerLimits
from sd_inpaint.condition import EXPIRY_WARNING_DAYS, Condition
from sd_inpaint.engine.lifecycle import EngineState
from sd_inpaint.errors import SettingsError
from sd_inpaint.http.bento import docs
from sd_inpaint.http.bento.address import log_address
from sd_inpaint.http.bento.connections import ConnectionLimits, Connections
from sd_inpaint.http.bento.draining import drain_before_exit
from sd_inpaint.http.bento.internals import (
    OpenAPISpecification,
    OpenTelemetryMiddleware,
    TimeoutMiddleware,
    install_protocol,
    trust_proxies,
)
from sd_inpaint.http.bento.metrics import Gauges
from sd_inpaint.http.bento.process import (
    RESERVED_FILES,
    bound_malloc_arenas,
    keep_heap_trimmed,
    raise_file_limit,
    share_interpreter,
)
from sd_inpaint.http.bento.protocol import serving_protocol
from sd_inpaint.http.endpoints.a1111.dialect import A1111
from sd_inpaint.http.endpoints.health import Health, describe_health
from sd_inpaint.http.endpoints.inpainting import Inpainting, describe_inpaint
from sd_inpaint.http.endpoints.jobs import Jobs
from sd_inpaint.http.endpoints.openai import OpenAIEdits
from sd_inpaint.http.endpoints.page import FILES, page_routes
from sd_inpaint.http.endpoints.painting import Painting
from sd_inpaint.http.endpoints.preview import Preview
from sd_inpaint.http.middleware.access_log import AccessLog
from sd_inpaint.http.middleware.api_keys import ApiKeys
from sd_inpaint.http.middleware.body_limit import HELD_BODIES, BodyLimit
from sd_inpaint.http.middleware.caller_usage import CallerUsage
from sd_inpaint.http.middleware.client_address import Proxies
from sd_inpaint.http.middleware.cors import AllowedOrigins, Cors
from sd_inpaint.http.middleware.error_shape import ErrorShape
from sd_inpaint.http.middleware.origins import Hosts, Origins
from sd_inpaint.http.middleware.path_prefix import PathPrefix
from sd_inpaint.http.middleware.routing import Routing
from sd_inpaint.http.middleware.shared_metrics import SharedMetrics
from sd_inpaint.http.middleware.tracing import Tracing
from sd_inpaint.http.middleware.unread_body import UnreadBody
from sd_inpaint.http.wire.operations import Operation
from sd_inpaint.http.wire.paths import A1111 as A1111_PATH
from sd_inpaint.http.wire.paths import HEALTH, INPAINT, NATIVE, OPENAI, PROBES
from sd_inpaint.imaging.credentials import load_credentials
from sd_inpaint.jobs.job import JobStore
from sd_inpaint.jobs.runner import JobRunner
from sd_inpaint.jobs.sqlite import SqliteJobStore, default_folder
from sd_inpaint.painter import Painter
from sd_inpaint.settings import Settings
from sd_inpaint.telemetry.tracing import start_export
from sd_inpaint.work.memory_budget import MemoryBudget, memory_limit_bytes
from sd_inpaint.work.picture_work import PictureWork

logger = logging.getLogger("bentoml.sd_inpaint.http")

OPEN_PATHS = PROBES | FILES.keys()
"""Paths that need no key."""

MEMORY_SHARE = 0.9
"""Of the container's or the machine's memory: the rest is for what nobody counts."""


class Application:
    """One server. Making it starts nothing and loads nothing heavy; it lives as long as the process.

    Args:
        settings: The operator's.
        host: The IP address that is served; None where it is not known, as in tests.
        make_painter: Makes the painter of settings and a place to work on pictures.

    Raises:
        SettingsError: If results are to be signed and cannot be, or the file of API keys cannot be used, or a setting
            needs a package that is not installed.

    Attributes:
        settings: As given.
        budget: The memory that requests share.
        painter: Repaints pictures.
        runner: Takes accepted jobs through the painter.
        inpainting: Answers ``POST /sd-inpaint/inpaint``, which BentoML declares.
        health: Answers ``/sd-inpaint/health``, which BentoML declares too.
        openai: The application below ``/v1``.
        a1111: The application below ``/sdapi/v1``.
        native: The application below ``/sd-inpaint``, but for what BentoML declares.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        host: str | None = None,
        make_painter: Callable[[Settings, PictureWork], Painter] = Painter,
    ) -> None:
        check_extras(settings)
        max_bytes = settings.max_memory_bytes or int(memory_limit_bytes() * MEMORY_SHARE)
        budget = MemoryBudget(max_bytes, max_upload_bytes=HELD_BODIES * settings.max_body_bytes)
        work = PictureWork(budget=budget)
        self.settings = settings
        self._host = host
        self.budget = budget
        self.painter = make_painter(settings, work)
        self._keyring = make_keyring(settings)
        self._accounts = Accounts(self._keyring.limits_of)
        self.runner = JobRunner(self.painter, work, settings, lambda: open_store(settings), self._accounts)
        self._credentials = load_credentials(settings.c2pa_certificate, settings.c2pa_key)
        condition = Condition(self.painter.engine, self.runner, budget, self._credentials)
        self._metrics = Gauges(self.painter, self.runner, budget, condition)
        painting = Painting(self.painter, work, settings, self._credentials)
        self.inpainting = Inpainting(painting)
        self.health = Health(self.painter, settings, condition)
        jobs = Jobs(painting, self.inpainting, self.runner)
        self._routes = {
            NATIVE: [*self.health.routes(), *jobs.routes(), *Preview(painting).routes()],
            OPENAI: OpenAIEdits(painting).routes(),
            A1111_PATH: A1111(painting).routes(),
        }
        self.native, self.openai, self.a1111 = (Starlette(routes=routes) for routes in self._routes.values())

    def operations(self) -> Iterator[tuple[str, str, Operation]]:
        """Yields what is served, by BentoML's declarations or by ours: a path, a method in small letters, what it does.

        BentoML's are POST only.
        """
        yield INPAINT, "post", describe_inpaint(self.settings.deadline_seconds)
        yield HEALTH, "post", describe_health("post_health")
        for prefix, routes in self._routes.items():
            for route in routes:
                yield prefix + route.path, route.method, route.operation

    def openapi(self, title: str) -> OpenAPISpecification:
        """Returns the OpenAPI document of everything that is served."""
        return docs.describe(title, self.operations(), open_paths=OPEN_PATHS, needs_key=self.settings.needs_key)

    @property
    def is_ready(self) -> bool:
        """Whether a request would be taken now."""
        return self.painter.engine.state is EngineState.READY

    def start(self) -> None:
        """Starts to load the weights and to take up unfinished jobs; has SIGTERM and SIGINT drain before they end."""
        # BentoML's handlers print the lines.
        logging.getLogger("bentoml.sd_inpaint").setLevel(self.settings.log_level.upper())
        # It warns of each malformed body, with pieces of it; the caller gets the reason, the access log the status.
        logging.getLogger("python_multipart").setLevel(logging.ERROR)
        # A file can have it warn 120,000 times.
        warnings.filterwarnings("ignore", module=r"PIL\.")
        start_export()
        log_address(self._host, self.settings)
        if self._credentials is not None and (days := self._credentials.days_left) < EXPIRY_WARNING_DAYS:
            logger.warning("The certificate that results are signed with expires in %d days.", days)
        self.painter.start()
        self.runner.start()
        self._metrics.start()
        drain_before_exit(lambda: self._drain(self.settings.drain_seconds))

    def stop(self) -> None:
        """Ends the engine; by now no request is left."""
        self._drain(0.0)
        self._metrics.stop()

    @property
    def _checks_hosts(self) -> bool:
        # Where a key is needed, a page that poses as this server gains nothing.
        return not self.settings.needs_key or bool(self.settings.allowed_hosts)

    def _drain(self, seconds: float) -> None:
        # The painter finishes its pictures, then the runner saves their outcomes.
        self.runner.drain()
        self.painter.stop(seconds)
        self.runner.stop()

    def prepare_process(self) -> None:
        """Sets what this process needs before its server starts: its protocol, open files, memory."""
        settings = self.settings
        bound_malloc_arenas()
        keep_heap_trimmed()
        share_interpreter()
        limits = ConnectionLimits(
            connections=min(settings.max_connections, raise_file_limit() - RESERVED_FILES),
            per_address=settings.max_connections_per_address,
            header_seconds=settings.header_seconds,
            body_rate=settings.min_body_rate,
            proxies=Proxies(settings.trusted_proxies),
        )
        trust_proxies(settings.trusted_proxies)
        install_protocol(serving_protocol(Connections(limits)))

    def surround(self, app: Starlette) -> Starlette:
        """Puts what every request meets around BentoML's application, outermost first.

        What that does by itself (its own CORS, 404s, error bodies) never reaches a caller. Its time-out is taken out:
        it waits for the first byte of a response, so an exception further in leaves the caller hanging until it rings,
        and it keeps a timer for each request until then. The engine has its own deadline. Its spans are taken out too:
        the access log stands outside of them, and on a kept-alive connection had an earlier request's ids.
        """
        settings = self.settings
        origins = AllowedOrigins(settings.cors_origins, needs_key=settings.needs_key)
        outermost_first = [
            Middleware(UnreadBody),
            Middleware(Tracing),
            Middleware(AccessLog),
            *([Middleware(Cors, origins=origins)] if origins else []),
            Middleware(PathPrefix, routes=app.router.routes, setting=settings.root_path),
            Middleware(BodyLimit, max_bytes=settings.max_body_bytes, budget=self.budget),
            Middleware(ErrorShape),
            *([Middleware(Hosts, names=settings.allowed_hosts)] if self._checks_hosts else []),
            Middleware(Origins, origins=origins),
            Middleware(Routing, routes=app.router.routes),
            Middleware(ApiKeys, keyring=self._keyring, exempt=OPEN_PATHS, accounts=self._accounts),
            Middleware(CallerUsage, accounts=self._accounts, exempt=OPEN_PATHS),
            Middleware(SharedMetrics),
        ]
        unwanted: tuple[object, ...] = (TimeoutMiddleware, OpenTelemetryMiddleware)
        inner = [middleware for middleware in app.user_middleware if middleware.cls not in unwanted]
        app.user_middleware[:] = [*outermost_first, *inner]
        # Before BentoML's own page, which loads a tag manager from elsewhere.
        app.router.routes[:0] = page_routes()
        return app


def make_keyring(settings: Settings) -> Keyring:
    """Makes the keys and the limits of callers.

    Raises:
        SettingsError: If the file of keys cannot be used.
    """
    defaults = CallerLimits(
        requests_per_minute=settings.caller_requests_per_minute,
        concurrency=settings.caller_concurrency,
        megapixel_steps_per_hour=settings.caller_megapixel_steps_per_hour,
        kept_bytes=settings.caller_kept_bytes,
    )
    file = None if settings.api_keys_file is None else KeyFile(settings.api_keys_file)
    return Keyring(settings.api_keys, file, defaults)


def check_extras(settings: Settings) -> None:
    """Refuses a database where its client is missing, before the first job is.

    Raises:
        SettingsError: If a package has to be installed.
    """
    if settings.state_url is not None and find_spec("psycopg") is None:
        raise SettingsError("SD_INPAINT_STATE_URL is set, but psycopg is not installed: install sd-inpaint[postgres].")


def open_store(settings: Settings) -> JobStore:
    """Opens the job store in the database that is set, else the one in a folder of this machine.

    Raises:
        StateUnavailableError: If the folder cannot be used. A database is not asked before the first call.
    """
    if settings.state_url is None:
        folder = settings.state_dir or default_folder()
        return SqliteJobStore(
            folder / "jobs", result_ttl_seconds=settings.result_ttl_seconds, max_bytes=settings.max_state_bytes
        )
    # Its client is loaded only where it is used.
    from sd_inpaint.jobs.postgres import PostgresJobStore

    url = settings.state_url.get_secret_value()
    return PostgresJobStore(url, result_ttl_seconds=settings.result_ttl_seconds, max_bytes=settings.max_state_bytes)
