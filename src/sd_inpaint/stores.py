"""Which store of accepted jobs an operator's settings name."""

from sd_inpaint.settings import Settings
from sd_inpaint.sqlite_store import SqliteJobStore, default_folder
from sd_inpaint.store import JobStore


def open_store(settings: Settings) -> JobStore:
    """Opens the store in the database that is set, else the one in a folder of this machine.

    Raises:
        StateUnavailableError: If the folder cannot be used. A database is not asked before the first call.
    """
    if settings.state_url is None:
        folder = settings.state_dir or default_folder()
        return SqliteJobStore(folder / "jobs", result_ttl_seconds=settings.result_ttl_seconds)
    # Its client is loaded only where it is used.
    from sd_inpaint.postgres_store import PostgresJobStore

    url = settings.state_url.get_secret_value()
    return PostgresJobStore(url, result_ttl_seconds=settings.result_ttl_seconds)
