"""OpenVINO itself: whether it is installed, and how it runs a model here."""

import importlib.util
import sys
from pathlib import Path
from typing import Any, Final

import torch

PRECISIONS: Final = {torch.float32: "f32", torch.bfloat16: "bf16"}
"""Number formats that it computes in, by its names."""


def is_installed() -> bool:
    """Whether the extra ``openvino`` is installed."""
    return importlib.util.find_spec("openvino") is not None


def openvino() -> Any:
    """Loads OpenVINO, without the package that sends usage statistics: its converter does without as well."""
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # the way to have an import fail
    import openvino as module

    return module


def compile_model(model: Any, dtype: torch.dtype, threads: int) -> Any:
    """Compiles a model for the CPU.

    Args:
        model: OpenVINO's, or the path of its ``.xml`` file; the weights beside it are mapped, not read.
        dtype: The format to compute in.
        threads: How many compute; they sleep while they wait.

    Raises:
        RuntimeError: If it cannot be compiled.
    """
    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": PRECISIONS[dtype],
    }
    return openvino().Core().compile_model(str(model) if isinstance(model, Path) else model, "CPU", options)
