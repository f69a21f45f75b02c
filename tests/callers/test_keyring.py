"""Whose a key is."""

import hmac
from pathlib import Path

import pytest

from sd_inpaint.callers import keyring as module
from sd_inpaint.callers.key_file import unnamed
from sd_inpaint.callers.keyring import Keyring
from sd_inpaint.callers.limits import CallerLimits
from tests.support.key_files import Watched, table


def test_names(tmp_path: Path) -> None:
    """Keys of the settings and of the file are known, others not."""
    keyring = Keyring(["plain"], Watched(tmp_path, table("app", "of the file")).file)
    assert keyring.name_of([b"of the file"]) == "app"
    assert keyring.name_of([b"plain"]) == unnamed("plain").name
    assert keyring.name_of([b"wrong", b"plain"]) == unnamed("plain").name
    assert keyring.name_of([b"wrong"]) is None
    assert keyring.name_of([]) is None


def test_a_file_without_keys_lets_nobody_in(tmp_path: Path) -> None:
    """Where a file is set a key is needed, even if there is none; without one, only where there are plain keys."""
    assert Keyring((), Watched(tmp_path, "").file).is_needed
    assert Keyring(["plain"]).is_needed
    assert not Keyring().is_needed


def test_every_pair_is_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A match does not end the comparing, and no comparison ends early: the time says nothing of the keys."""
    compared = []
    compare_digest = hmac.compare_digest

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return compare_digest(one, other)

    monkeypatch.setattr(module.hmac, "compare_digest", compare)
    keyring = Keyring(["a", "b"], Watched(tmp_path, table("app", "c")).file)
    for offered in (b"a", b"c", b"wrong"):
        compared.clear()
        keyring.name_of([offered, b"other"])
        assert len(compared) == 6
        assert {len(digest) for pair in compared for digest in pair} == {32}


def test_limits(tmp_path: Path) -> None:
    """A key's own limits count before the defaults; of several keys with one name, those of the last."""
    text = table("app", "a", concurrency=1) + table("app", "b", concurrency=2, share=3) + table("other", "c")
    watched = Watched(tmp_path, text)
    keyring = Keyring((), watched.file, CallerLimits(requests_per_minute=60, concurrency=9))
    assert keyring.limits_of("app") == CallerLimits(requests_per_minute=60, concurrency=2, share=3)
    assert keyring.limits_of("other") == keyring.limits_of(None) == CallerLimits(requests_per_minute=60, concurrency=9)
    watched.path.write_text(table("app", "a", requests_per_minute=0))
    watched.names()
    assert keyring.limits_of("app") == CallerLimits(concurrency=9)
