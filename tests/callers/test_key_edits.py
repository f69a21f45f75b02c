"""What changes of the file of API keys write, and what they leave alone."""

import datetime as dt

import pytest

from sd_inpaint.callers import key_edits as keys
from sd_inpaint.callers.key_file import digest, parse_entries
from sd_inpaint.errors import SettingsError

HAND_WRITTEN = """\
# The keys of our service.

# The app.  Ask Ann.
[[key]]
name = "app"   # in both stores
sha256 = "{a}"
requests_per_minute = 60

[[ key ]]
sha256 = "{b}"
name = "batch"
""".format(a=digest(b"a").hex(), b=digest(b"b").hex())


def test_keys_are_different() -> None:
    """Each key is new, and long enough that nobody finds it by trying."""
    made = {keys.add("", "app", {})[1] for _ in range(100)}
    assert len(made) == 100
    assert all(len(key.removeprefix(keys.KEY_PREFIX)) * 6 >= 256 for key in made)


def test_rotate() -> None:
    """A rotated name has a new key with the same limits, and the old one for a while; comments stay."""
    text, key = keys.rotate(HAND_WRITTEN, "app", overlap_hours=2)
    old, other, new = parse_entries(text)
    assert (old.name, other.name, new.name) == ("app", "batch", "app")
    assert (other.expires, new.expires, new.requests_per_minute) == (None, None, 60)
    assert old.expires is not None
    in_two_hours = dt.datetime.now(dt.UTC) + dt.timedelta(hours=2)
    assert abs(old.expires - in_two_hours) < dt.timedelta(minutes=1)
    assert new.sha256 == digest(key.encode()).hex()
    for comment in ("# The keys of our service.", "# The app.  Ask Ann.", "# in both stores"):
        assert comment in text
    again, _ = keys.rotate(text, "app", overlap_hours=24)
    assert parse_entries(again)[0].expires == old.expires, "a key that ends soon does not end later"


def test_revoke() -> None:
    """Every key of a name goes, with the comment above it; all else stays as it is written."""
    rotated, _ = keys.rotate(HAND_WRITTEN, "app")
    text = keys.revoke(rotated, "app")
    assert [entry.name for entry in parse_entries(text)] == ["batch"]
    assert text.startswith("# The keys of our service.\n\n[[ key ]]\n")
    assert "Ann" not in text
    assert parse_entries(keys.revoke(text, "batch")) == ()


@pytest.mark.parametrize(
    "text",
    [
        f'key = [{{name = "app", sha256 = "{digest(b"a").hex()}"}}]\n',
        HAND_WRITTEN + '# """\n[[key]] # [[key]]\nname = """app\n"""\n',
    ],
)
def test_other_forms_are_left_alone(text: str) -> None:
    """A file that the command would not change rightly is refused, not spoiled."""
    with pytest.raises(SettingsError):
        keys.revoke(text, "app")
