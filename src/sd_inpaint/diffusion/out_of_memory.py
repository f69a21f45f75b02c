"""What each device raises when its memory runs out → the one error that the device loop knows."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from sd_inpaint.errors import OutOfMemoryError


@contextmanager
def translated_out_of_memory() -> Iterator[None]:
    """Raises OutOfMemoryError for whatever a device raises where it has too little memory."""
    try:
        yield
    except (torch.cuda.OutOfMemoryError, MemoryError) as error:
        raise _out_of_memory() from error
    except RuntimeError as error:
        # The CPU and MPS allocators raise a plain RuntimeError.
        if "can't allocate memory" in str(error) or "out of memory" in str(error):
            raise _out_of_memory() from error
        raise


def _out_of_memory() -> OutOfMemoryError:
    return OutOfMemoryError("The device ran out of memory. Use region=auto or region=mask, or send a smaller picture.")
