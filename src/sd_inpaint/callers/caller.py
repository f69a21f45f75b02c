"""Who makes a request."""

from dataclasses import dataclass

ADDRESS_MARK = "@"
"""Begins a label that is an address; no name has it."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a request.

    Attributes:
        name: Of the API key; None where none is needed.
        address: Where from; "" where that is not known.
    """

    name: str | None
    address: str

    @property
    def label(self) -> str:
        """Tells callers apart: the name where there is one, else the address."""
        return self.name if self.name is not None else ADDRESS_MARK + self.address


NOBODY = Caller(None, "")
"""A job whose caller is not known any more."""
