"""All keys that are good: those of the settings, and those of the file."""

import dataclasses
import hmac
from collections.abc import Iterable, Sequence

from sd_inpaint.callers.key_file import KeyFile, NamedKey, digest, unnamed
from sd_inpaint.callers.limits import UNLIMITED, CallerLimits


class Keyring:
    """Tells whose a key is. Any thread may call it.

    Args:
        plain: Keys without a name.
        file: More keys, with names and limits.
        defaults: Limits of whoever has none of their own.
    """

    def __init__(
        self, plain: Iterable[str] = (), file: KeyFile | None = None, defaults: CallerLimits = UNLIMITED
    ) -> None:
        self._plain = tuple(map(unnamed, plain))
        self._file = file
        self._defaults = defaults
        self._of: tuple[NamedKey, ...] | None = None
        self._limits: dict[str, CallerLimits] = {}

    @property
    def is_needed(self) -> bool:
        """Whether a request needs a key: where there is a file it does, even if no key is in it."""
        return bool(self._plain) or self._file is not None

    def name_of(self, offered: Sequence[bytes]) -> str | None:
        """Returns the name of the first good key that was offered, or None.

        Keys are compared by their digests, each with each, so that the time says nothing of where two differ.
        """
        digests = [digest(key) for key in offered]
        known = [*self._plain, *self._keys()]
        matches = [(hmac.compare_digest(mine, key.digest), key.name) for mine in digests for key in known]
        return next((name for matches_it, name in matches if matches_it), None)

    def limits_of(self, name: str | None) -> CallerLimits:
        """Returns the limits of a caller's name; of several keys with one name, the last one's."""
        keys = self._keys()
        if keys is not self._of:
            self._limits = {key.name: dataclasses.replace(self._defaults, **key.limits) for key in keys}
            self._of = keys
        return self._limits.get(name, self._defaults) if name is not None else self._defaults

    def _keys(self) -> tuple[NamedKey, ...]:
        return self._file.good_keys() if self._file is not None else ()
