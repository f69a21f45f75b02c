"""Wrong keys, by address."""

import logging

import pytest

from sd_inpaint.callers import wrong_keys as module
from sd_inpaint.callers.wrong_keys import MAX_WRONG_KEYS, WrongKeys
from sd_inpaint.errors import RateLimitedError
from tests.support.simulation import Clock


def test_an_address_is_slowed_down(caplog: pytest.LogCaptureFixture) -> None:
    """After ten wrong keys an address may try one every six seconds; others are not affected; the log says so once."""
    clock = Clock()
    wrong_keys = WrongKeys(clock)
    with caplog.at_level(logging.WARNING):
        for _ in range(MAX_WRONG_KEYS):
            wrong_keys.check("192.0.2.1")
            wrong_keys.add("192.0.2.1")
    with pytest.raises(RateLimitedError) as refused:
        wrong_keys.check("192.0.2.1")
    assert refused.value.retry_after_seconds == 6
    assert refused.value.facts["limit"] == "wrong_keys"
    wrong_keys.check("192.0.2.2")
    clock.now += 6
    wrong_keys.check("192.0.2.1")
    assert [record.getMessage() for record in caplog.records] == [
        "10 wrong API keys came from 192.0.2.1 within a minute."
    ]
    assert wrong_keys.count == MAX_WRONG_KEYS


def test_addresses_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Addresses without number take bounded memory; one that goes on trying stays slowed down."""
    monkeypatch.setattr(module, "MAX_ADDRESSES", 20)
    wrong_keys = WrongKeys(Clock())
    for number in range(1000):
        wrong_keys.add(f"address {number}")
        wrong_keys.add("persistent")
    assert len(wrong_keys) == 20
    with pytest.raises(RateLimitedError):
        wrong_keys.check("persistent")
