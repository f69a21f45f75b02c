"""What a caller may use."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sd_inpaint.callers import accounts as module
from sd_inpaint.callers.accounts import Account, Accounts, Usage
from sd_inpaint.callers.allowance import Allowance
from sd_inpaint.callers.caller import Caller
from sd_inpaint.callers.limits import CallerLimits
from sd_inpaint.errors import BusyError, QuotaExceededError, RateLimitedError
from tests.support.simulation import Clock


def make_account(**limits: float) -> tuple[Account, Clock]:
    """Makes an account with some limits."""
    clock = Clock()
    return Account("app", CallerLimits(**limits), clock), clock  # type: ignore[arg-type]


@given(
    amount=st.floats(1, 1000),
    takes=st.lists(st.tuples(st.floats(0, 120), st.floats(0.1, 50)), max_size=40),
)
def test_allowance_is_kept(amount: float, takes: list[tuple[float, float]]) -> None:
    """In any stretch of time no more is taken than a full allowance, what has come since, and one take too many."""
    clock, taken = Clock(), []
    allowance = Allowance(amount, 60.0, clock.now)
    for pause, size in takes:
        clock.now += pause
        wait_seconds = allowance.wait_seconds(clock.now)
        if wait_seconds:
            clock.now += wait_seconds * (1 + 1e-9) + 1e-9
            assert not allowance.wait_seconds(clock.now)
        allowance.take(size)
        taken.append((clock.now, size))
    for start in range(len(taken)):
        for end in range(start, len(taken)):
            came = taken[end][0] - taken[start][0]
            sizes = [size for _, size in taken[start : end + 1]]
            assert sum(sizes) <= amount * (1 + came / 60.0) + max(sizes) + 1e-6


def test_requests_a_minute() -> None:
    """As many as are allowed may come at once; then one after another; the answer says when the next may come."""
    account, clock = make_account(requests_per_minute=6)
    for _ in range(6):
        account.count_request()
    with pytest.raises(RateLimitedError) as refused:
        account.count_request()
    assert refused.value.retry_after_seconds == 10
    assert refused.value.facts["limit"] == "requests_per_minute"
    clock.now += 10
    account.count_request()
    with pytest.raises(RateLimitedError):
        account.count_request()


def test_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred requests at once wait for nothing, more wait in line, and those far behind are refused."""
    account, clock = make_account()
    waits = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)

    async def take(count: int) -> None:
        for _ in range(count):
            await account.wait_for_turn()

    asyncio.run(take(100))
    assert waits == []
    asyncio.run(take(500))
    assert waits == pytest.approx([n / 100 for n in range(1, 501)])
    with pytest.raises(RateLimitedError) as refused:
        asyncio.run(take(1))
    assert refused.value.facts["limit"] == "requests_per_second"
    clock.now += 7
    waits.clear()
    asyncio.run(take(100))
    assert waits == []


def test_concurrency() -> None:
    """What is in progress is bounded, but for what was let in before, which counts all the same."""
    account, _ = make_account(concurrency=2)
    account.begin()
    account.begin(force=True)
    account.begin(force=True)
    with pytest.raises(RateLimitedError) as refused:
        account.begin()
    assert refused.value.facts["limit"] == "concurrency"
    account.end()
    with pytest.raises(RateLimitedError):
        account.begin()
    account.end()
    account.begin()


def test_work_an_hour() -> None:
    """Work may be asked for while anything is left of an hour's; what was not done is given back."""
    account, clock = make_account(megapixel_steps_per_hour=100)
    usage = Usage(account)
    usage.take_work(90)
    usage.take_work(50)
    with pytest.raises(QuotaExceededError) as refused:
        account.check_work()
    assert refused.value.facts["limit"] == "megapixel_steps_per_hour"
    assert refused.value.retry_after_seconds == pytest.approx(40 / 100 * 3600, abs=1)
    with pytest.raises(QuotaExceededError):
        usage.take_work(1)
    usage.take_work(1, force=True)
    usage.take_work(-45)
    account.check_work()
    assert usage.megapixel_steps == 96
    clock.now += 3600
    usage.take_work(99.9)
    account.check_work()


def test_work_given_back_is_no_credit() -> None:
    """Giving back never brings more than a whole allowance."""
    account, _ = make_account(megapixel_steps_per_hour=100)
    account.take_work(-1000)
    account.take_work(100)
    with pytest.raises(QuotaExceededError):
        account.check_work()


def test_kept_bytes() -> None:
    """More than is allowed is not kept; the answer says when something expires."""
    account, _ = make_account(kept_bytes=1000)
    account.check_kept(900, 100, 5.0)
    with pytest.raises(QuotaExceededError) as refused:
        account.check_kept(900, 101, 4.2)
    assert refused.value.retry_after_seconds == 5
    assert refused.value.facts["limit"] == "kept_bytes"


def test_no_limits() -> None:
    """Zero is no limit, of anything."""
    account, _ = make_account()
    for _ in range(1000):
        account.count_request()
        account.begin()
        account.take_work(1e9)
        account.check_kept(10**15, 10**15, 1.0)


def test_callers_have_their_own_accounts() -> None:
    """A name is one account, from wherever it calls; without a name, an address is; a name is never an address."""
    accounts = Accounts()
    assert accounts.of(Caller("app", "192.0.2.1")) is accounts.of(Caller("app", "192.0.2.2"))
    different = [Caller("app", ""), Caller("other", ""), Caller(None, "192.0.2.1"), Caller(None, "192.0.2.2")]
    assert len({id(accounts.of(caller)) for caller in [*different, Caller("192.0.2.1", "")]}) == 5


def test_limits_that_change_count_at_once() -> None:
    """New limits count from the next request on; what is in progress still does."""
    limits = {"app": CallerLimits(concurrency=1)}
    accounts = Accounts(lambda name: limits[str(name)])
    account = accounts.of(Caller("app", ""))
    account.begin()
    with pytest.raises(BusyError):
        account.begin()
    limits["app"] = CallerLimits(concurrency=2)
    assert accounts.of(Caller("app", "")) is account
    account.begin()
    with pytest.raises(BusyError):
        account.begin()


def test_accounts_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more callers than are remembered the quiet ones are forgotten, and never one with something in progress."""
    monkeypatch.setattr(module, "MAX_ACCOUNTS", 10)
    accounts = Accounts(lambda _: CallerLimits(requests_per_minute=1))
    busy = accounts.of(Caller(None, "busy"))
    busy.begin()
    for number in range(1000):
        accounts.of(Caller(None, f"address {number}"))
        accounts.of(Caller("regular", ""))
    assert len(accounts) == 10
    assert accounts.of(Caller(None, "busy")) is busy
