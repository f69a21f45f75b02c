"""A safetensors file → a module's weights, each tensor read once and converted once: to its format, layout and device.

diffusers' own loader maps the file, converts into the module, and leaves the layout to a second pass: that is twice the
memory for a while, and half a gigabyte that the allocator keeps.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import torch

LENGTH_BYTES: Final = 8
"""Of the header's length, at the beginning of the file. Source: the safetensors format, version 0.4."""

MAX_HEADER_BYTES: Final = 100_000_000
"""As the format has it."""

DTYPES: Final = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Formats that are read here."""


def load_directly(
    module_class: Any, folder: Path, file: Path, *, dtype: torch.dtype, device: torch.device, channels_last: bool
) -> Any | None:
    """Makes a module of diffusers and reads its weights.

    Args:
        module_class: A ModelMixin.
        folder: Of its config.
        file: The weights.
        dtype: The format of the module.
        device: Where it lives.
        channels_last: Whether convolutions have their channels last in memory.

    Returns:
        The module; None where the file does not hold exactly its tensors, under its names: diffusers' own loader knows
        the names of earlier versions.

    Raises:
        OSError, ValueError, RuntimeError: If the file is damaged.
    """
    if module_class._keep_in_fp32_modules:
        return None
    with torch.device("meta"):
        module = module_class.from_config(module_class.load_config(folder, local_files_only=True))
    expected = module.state_dict()
    with file.open("rb", buffering=0) as stream:
        header = _read_header(stream)
        if {name: tuple(tensor.shape) for name, tensor in expected.items()} != {
            name: tuple(about["shape"]) for name, about in header.items()
        } or not {about["dtype"] for about in header.values()} <= DTYPES.keys():
            return None
        tensors = {}
        for name, tensor in _read_tensors(stream, header):
            has_layout = channels_last and tensor.ndim == 4
            layout = torch.channels_last if has_layout else torch.contiguous_format
            # Always a copy of its own: the buffer is read into again.
            tensors[name] = tensor.to(device, dtype, memory_format=layout, copy=True)
    module.load_state_dict(tensors, assign=True)
    # Buffers that are in no file would still be without storage.
    return None if any(tensor.is_meta for tensor in (*module.parameters(), *module.buffers())) else module


def _read_header(stream: Any) -> dict[str, Any]:
    length = int.from_bytes(stream.read(LENGTH_BYTES), "little")
    if length > MAX_HEADER_BYTES:
        raise ValueError(f"{stream.name} is no safetensors file: its header would have {length} bytes")
    header: dict[str, Any] = json.loads(stream.read(length))
    header.pop("__metadata__", None)
    return header


def _read_tensors(stream: Any, header: dict[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors in the order of the file; each is gone when the next one comes."""
    start = stream.tell()
    longest = max((end - begin for begin, end in (about["data_offsets"] for about in header.values())), default=0)
    buffer = bytearray(longest)
    for name, about in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        begin, end = about["data_offsets"]
        stream.seek(start + begin)
        view = memoryview(buffer)[: end - begin]
        if _read_into(stream, view) != end - begin:
            raise ValueError(f"{stream.name} ends within {name}")
        yield name, torch.frombuffer(view, dtype=DTYPES[about["dtype"]]).reshape(about["shape"])


def _read_into(stream: Any, view: memoryview) -> int:
    """Fills the view as far as the file goes: one call reads two gigabytes at most."""
    read = 0
    while read < len(view) and (count := stream.readinto(view[read:])):
        read += count
    return read
