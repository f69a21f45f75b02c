"""The edge with accepted jobs, in this process: the real runner and store over a device that only takes its time."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sd_inpaint.http.endpoints.jobs import JOBS
from tests.support.edge import App, form, make_app
from tests.support.real_time import SlowPainter, wait_for


class JobsApp(App):
    """The edge, the real runner and store, and a painter whose device only takes its time; or what ``--url`` names."""

    def painted(self) -> int:
        """How many jobs have begun, or wait, so far."""
        queue = self.get("/sd-inpaint/info").json()["queue"]
        return int(queue["jobs"] + sum(queue["outcomes"].values()))

    def post(self, headers: dict[str, str] | None = None, **changes: Any) -> Any:
        """Posts a job that is good but for ``changes``."""
        return self.client.post(JOBS, headers=headers, **form(**changes))

    def accept(self, headers: dict[str, str] | None = None, **changes: Any) -> str:
        """Posts a job that is accepted; gives its address."""
        response = self.post(headers, **changes)
        assert response.status_code == 202, response.text
        return str(response.headers["location"])

    def get(self, address: str, **headers: str) -> Any:
        """Reads one address."""
        return self.client.get(address, headers=headers)

    def wait_ended(self, address: str) -> dict[str, Any]:
        """Waits until a job has ended; gives its last description."""
        wait_for(lambda: self.get(address).json()["state"] in ("done", "failed", "cancelled"))
        body: dict[str, Any] = self.get(address).json()
        return body


@contextlib.contextmanager
def make_jobs_app(folder: Path, **settings: Any) -> Iterator[JobsApp]:
    """Serves the edge with jobs in ``folder``."""
    with make_app(painter=SlowPainter, state_dir=folder, **settings) as app:
        assert app.painter.engine.wait_loaded(20)
        yield JobsApp(app.client, app.painter, app.runner)
