"""The client's logic without a socket: each flow is run against a list of outcomes."""

import json
from collections.abc import Sequence
from typing import Any

import pytest

from sd_inpaint.client import NO_RETRIES, NoAnswerError, Progress, Retries, ServiceError, flows
from sd_inpaint.client.exchange import Answer, Flow, Follow, Request, Send, Sleep, UnreachableError
from sd_inpaint.client.flows import Patience
from sd_inpaint.client.retries import retry_after, send
from sd_inpaint.errors import JobNotFoundError, ModelFailedError, QueueFullError
from sd_inpaint.http.wire import headers, paths
from sd_inpaint.schema import InpaintParameters

FILES = {"image": b"image", "mask": b"mask"}
PARAMETERS = InpaintParameters(prompt="a rose")


def answer(status: int = 200, body: Any = None, **fields: str) -> Answer:
    """An answer with JSON."""
    named = {name.replace("_", "-"): value for name, value in fields.items()}
    return Answer(status, named, json.dumps(body if body is not None else {}).encode())


def refusal(status: int, code: str, **fields: str) -> Answer:
    """An error in the service's shape."""
    return answer(status, {"error": "A sentence.", "code": code, "fact": 1}, **fields)


def job(state: str, **changes: Any) -> dict[str, Any]:
    """A job's JSON."""
    facts = {"id": "j", "state": state, "step": 1, "steps": 2, "queue_position": 0, "seconds_left": None, "seed": 42}
    return facts | changes


def lost(*, was_sent: bool = True) -> UnreachableError:
    """No answer."""
    return UnreachableError("It cannot be reached.", was_sent=was_sent)


class Stream:
    """Events of one connection, which then ends, or breaks."""

    def __init__(self, *lines: str, breaks: bool = False) -> None:
        self.lines = [*("\n".join(lines).split("\n") if lines else [])]
        self.breaks = breaks


def event(name: str, data: Any, event_id: int | None = None) -> str:
    """An event as the service writes it."""
    return f"event: {name}\n" + (f"id: {event_id}\n" if event_id else "") + f"data: {json.dumps(data)}\n"


def run(flow: Flow[Any], outcomes: Sequence[Any]) -> tuple[Any, list[Any]]:
    """Runs a flow; gives its value or error, and all that it asked for. Sleeping takes no time."""
    asked: list[Any] = []
    left = list(outcomes)
    try:
        command = next(flow)
        while True:
            asked.append(command)
            if isinstance(command, Sleep):
                command = flow.send(None)
                continue
            outcome = left.pop(0)
            if isinstance(command, Follow) and isinstance(outcome, Stream):
                for line in outcome.lines:
                    if command.take(line):
                        break
                outcome = lost() if outcome.breaks else Answer(200, {})
            command = flow.throw(outcome) if isinstance(outcome, Exception) else flow.send(outcome)
    except StopIteration as stop:
        assert not left
        return stop.value, asked
    except Exception as error:  # noqa: BLE001  # the test looks at it
        return error, asked


def slept(asked: Sequence[Any]) -> list[float]:
    """The pauses among what was asked for."""
    return [command.seconds for command in asked if isinstance(command, Sleep)]


class TestRetries:
    """What is sent again, and when."""

    @pytest.mark.parametrize("status", [429, 503])
    def test_the_services_own_time_is_waited_for(self, status: int) -> None:
        """An answer with Retry-After is tried again after as many seconds, with the same Idempotency-Key."""
        outcomes = [refusal(status, "queue_full", retry_after="7"), answer(202, job("queued"))]
        value, asked = run(flows.submit(FILES, PARAMETERS, None, Patience(Retries())), outcomes)
        assert value.id == "j"
        assert slept(asked) == [7.0]
        keys = [command.request.headers["Idempotency-Key"] for command in asked if isinstance(command, Send)]
        assert len(keys) == 2
        assert keys[0] == keys[1]

    def test_retry_after_may_be_a_date(self) -> None:
        """A date counts from the server's own clock, and a past one is now."""
        date = {"date": "Thu, 26 Nov 2026 20:00:00 GMT"}
        assert retry_after(Answer(503, {"retry-after": "Thu, 26 Nov 2026 20:00:30 GMT", **date})) == 30.0
        assert retry_after(Answer(503, {"retry-after": "Thu, 26 Nov 2026 19:00:00 GMT", **date})) == 0.0
        assert retry_after(Answer(503, {"retry-after": "soon"})) is None
        assert retry_after(Answer(503, {})) is None

    def test_a_wait_beyond_the_bound_is_an_error(self) -> None:
        """A Retry-After of more than the longest wait is raised at once, and says how long."""
        flow = flows.submit(FILES, PARAMETERS, None, Patience(Retries(longest_seconds=60)))
        error, asked = run(flow, [refusal(429, "queue_full", retry_after="61")])
        assert isinstance(error, QueueFullError)
        assert error.retry_after_seconds == 61
        assert not slept(asked)

    def test_all_waits_together_are_bounded(self) -> None:
        """The total ends the tries, and so does their number."""
        outcomes = [refusal(503, "model_loading", retry_after="5")] * 3
        flow = flows.get_json(flows.INFO, Patience(Retries(total_seconds=12)))
        error, asked = run(flow, outcomes)
        assert isinstance(error, ServiceError)
        assert slept(asked) == [5.0, 5.0]
        error, asked = run(flows.get_json(flows.INFO, Patience(Retries(most=1))), outcomes)
        assert slept(asked) == [5.0]

    @pytest.mark.parametrize("code", ["model_failed", "model_disabled", "internal"])
    def test_what_does_not_pass_is_not_waited_for(self, code: str) -> None:
        """An error of the service without Retry-After is raised at once, whatever its status."""
        error, asked = run(flows.get_json(flows.INFO, Patience(Retries())), [refusal(503, code)])
        assert error.code == code
        assert len(asked) == 1

    def test_a_proxy_whose_service_is_away_is_asked_again(self) -> None:
        """A 502 that is not in the service's shape is tried again, with growing pauses."""
        page = Answer(502, {"content-type": "text/html"}, b"<h1>Bad Gateway</h1>")
        value, asked = run(flows.get_json(flows.INFO, Patience(Retries())), [page, page, page, answer(200, {"a": 1})])
        assert value == {"a": 1}
        first, second, third = slept(asked)
        assert 0.25 <= first <= 0.5 <= second <= 1.0 <= third <= 2.0
        error, _ = run(flows.get_json(flows.INFO, Patience(NO_RETRIES)), [page])
        assert isinstance(error, NoAnswerError)
        assert "Bad Gateway" in str(error)

    def test_a_post_that_may_have_arrived_is_not_repeated_without_a_key(self) -> None:
        """Requests that can do harm twice are repeated only if the first never left."""
        request = Request("POST", "/x", is_repeatable=False)
        error, asked = run(send(request, Retries()), [lost()])
        assert isinstance(error, NoAnswerError)
        assert len(asked) == 1
        value, _ = run(send(request, Retries()), [lost(was_sent=False), answer()])
        assert value.status == 200

    def test_another_answer_is_said_to_be_anothers(self) -> None:
        """A 200 that is not the service's JSON is an error, not a result."""
        error, _ = run(flows.get_json(flows.INFO, Patience(Retries())), [Answer(200, {}, b"<html>")])
        assert isinstance(error, NoAnswerError)
        error, _ = run(flows.submit(FILES, PARAMETERS, None, Patience(Retries())), [answer(200, {"hello": 1})])
        assert isinstance(error, NoAnswerError)
        error, _ = run(
            flows.get_result("j", Patience(Retries())), [Answer(200, {"content-type": "text/html"}, b"<html>")]
        )
        assert isinstance(error, NoAnswerError)


class TestErrors:
    """Codes and classes."""

    def test_a_code_is_its_class(self) -> None:
        """The class of errors.py is raised, with the facts, the status and the request's id."""
        error, _ = run(flows.get_job("j", Patience(Retries())), [refusal(503, "model_failed", x_request_id="r1")])
        assert isinstance(error, ModelFailedError)
        assert isinstance(error, ServiceError)
        assert (str(error), error.facts, error.status, error.request_id) == ("A sentence.", {"fact": 1}, 503, "r1")

    def test_an_unknown_code_is_a_service_error(self) -> None:
        """What a later version calls otherwise is still an error with its code."""
        error, _ = run(flows.get_job("j", Patience(Retries())), [refusal(418, "teapot")])
        assert type(error) is ServiceError
        assert error.code == "teapot"

    def test_facts_may_have_any_name(self) -> None:
        """A fact that is called like an attribute does no harm."""
        body = {"error": "No.", "code": "not_ready", "status": "loading", "message": "x", "self": 1}
        error, _ = run(flows.get_json(flows.HEALTH, Patience(Retries())), [answer(503, body)])
        assert (error.status, error.facts["status"]) == (503, "loading")


class TestWaiting:
    """Following a job."""

    def test_events_lead_to_the_end(self) -> None:
        """Progress is reported with the newest preview; the last event ends it."""
        seen: list[Progress] = []
        stream = Stream(
            "retry: 2000\n",
            event("progress", job("queued"), 1),
            ": keep-alive\n",
            event("preview", {"step": 1, "image": "data:image/png;base64,QUJD"}),
            event("progress", job("running"), 2),
            event("done", job("done"), 3),
            event("progress", job("never"), 4),
        )
        value, asked = run(flows.wait("j", Patience(Retries()), seen.append, None), [stream])
        assert value.state == "done"
        assert [(each.job.state, each.preview) for each in seen] == [
            ("queued", None),
            ("running", b"ABC"),
            ("done", None),
        ]
        assert len(asked) == 1

    @pytest.mark.parametrize("breaks", [False, True])
    def test_a_lost_connection_is_made_again(self, breaks: bool) -> None:
        """After the server's own pause the client connects again and says what it saw last."""
        first = Stream("retry: 3000\n", event("progress", job("running"), 4), 'data: {"half', breaks=breaks)
        second = Stream(event("done", job("done"), 9))
        value, asked = run(flows.wait("j", Patience(Retries()), None, None), [first, lost(), second])
        assert value.state == "done"
        assert slept(asked) == [3.0, 3.0]
        ids = [command.request.headers.get("Last-Event-ID") for command in asked if isinstance(command, Follow)]
        assert ids == [None, "4", "4"]

    def test_a_server_that_stays_away_is_given_up(self) -> None:
        """Only tries in a row count: any event starts the count again."""
        alive = Stream("retry: 10\n", event("progress", job("running"), 1), breaks=True)
        patience = Patience(Retries(most=2))
        value, _ = run(flows.wait("j", patience, None, None), [alive, lost(), alive, lost(), lost(), lost()])
        assert isinstance(value, NoAnswerError)

    def test_a_job_that_ended_meanwhile_is_looked_up(self) -> None:
        """A 204 to a client that connects again leads to the job itself."""
        first = Stream("retry: 10\n", event("progress", job("running"), 4))
        value, asked = run(
            flows.wait("j", Patience(Retries()), None, None), [first, Answer(204, {}), answer(200, job("failed"))]
        )
        assert value.state == "failed"
        assert asked[-1].request.path == "/sd-inpaint/jobs/j"

    def test_a_job_that_is_gone_is_an_error(self) -> None:
        """A 404 is raised and not tried again."""
        error, asked = run(flows.wait("j", Patience(Retries()), None, None), [refusal(404, "job_not_found")])
        assert isinstance(error, JobNotFoundError)
        assert len(asked) == 1

    def test_a_failed_job_raises_its_error(self) -> None:
        """The call raises what the result's address answers, and removes the job."""
        outcomes = [
            answer(202, job("queued")),
            Stream(event("failed", job("failed", error={"error": "No.", "code": "out_of_memory"}), 2)),
            refusal(500, "out_of_memory"),
            Answer(204, {}),
        ]
        flow = flows.inpaint(FILES, PARAMETERS, None, Patience(Retries()), None, None)
        error, asked = run(flow, outcomes)
        assert error.code == "out_of_memory"
        assert asked[-1].request.method == "DELETE"

    def test_a_removal_that_fails_costs_no_result(self) -> None:
        """The result is returned also if the job could not be removed."""
        picture = Answer(200, {"content-type": "image/png", "x-seed": "1"}, b"png")
        outcomes = [answer(202, job("queued")), Stream(event("done", job("done"), 2)), picture, lost()]
        value, _ = run(flows.inpaint(FILES, PARAMETERS, None, Patience(Retries()), None, None), outcomes)
        assert value.data == b"png"


def test_paths_and_headers_are_the_services() -> None:
    """What the client spells out for itself is what the service has."""
    assert (flows.JOBS, flows.HEALTH, flows.INFO, flows.PREVIEW) == (
        paths.JOBS,
        paths.HEALTH,
        paths.INFO,
        paths.PREVIEW,
    )
    _, asked = run(flows.submit(FILES, PARAMETERS, "k", Patience(Retries())), [answer(202, job("queued"))])
    assert asked[0].request.headers == {headers.IDEMPOTENCY_KEY: "k"}
