"""The client's keywords, classes and imports are the service's."""

import inspect
import subprocess
import sys
import types
from enum import StrEnum
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from sd_inpaint import errors
from sd_inpaint.client.errors import CLASSES, ServiceError
from sd_inpaint.client.options import Options, form_texts, read_options
from sd_inpaint.http.wire.errors import STATUSES
from sd_inpaint.http.wire.parameters import read_parameters
from sd_inpaint.schema import InpaintParameters

IMPORT = """
import sys, time
began = time.process_time()
import sd_inpaint.client
print(time.process_time() - began)
print(sorted({name.partition(".")[0] for name in sys.modules}))
"""

HEAVY = {"torch", "diffusers", "transformers", "bentoml", "starlette", "uvicorn", "cv2"}


def parts(annotation: Any) -> set[Any]:
    """The members of a union; of an enum and of a Literal, the texts."""
    if get_origin(annotation) in (Union, types.UnionType):
        return set().union(*map(parts, get_args(annotation)))
    if get_origin(annotation) is Literal:
        return set(get_args(annotation))
    if isinstance(annotation, type) and issubclass(annotation, StrEnum):
        return {str(member) for member in annotation}
    return {annotation}


def test_every_parameter_is_a_keyword_of_its_type() -> None:
    """The typed keywords are the schema's fields but for the prompt, with their types and choices."""
    hints = get_type_hints(Options)
    fields = {name: field for name, field in InpaintParameters.model_fields.items() if name != "prompt"}
    assert list(hints) == list(fields)
    assert {name: parts(hint) for name, hint in hints.items()} == {
        name: parts(field.annotation) for name, field in fields.items()
    }


def test_the_form_says_what_was_meant() -> None:
    """What the client writes into a form, the service reads as the same parameters; only what was set is sent."""
    options = {
        "negative_prompt": "blurry",
        "guidance_scale": 3.25,
        "seed": 2**64 - 1,
        "mask_invert": True,
        "color_match": False,
        "padding": None,
        "scheduler": "euler_a",
        "mask_grow": -3,
    }
    parameters = read_options("a (red:1.2) rose", options)
    texts = form_texts(parameters)
    assert set(texts) == {"prompt", *options} - {"padding"}
    assert read_parameters(texts) == parameters


def test_every_code_has_its_class() -> None:
    """Each code of errors.py is a class of the client, which is that class and a ServiceError."""
    codes = {vars(each).get("code") for _, each in inspect.getmembers(errors, inspect.isclass)}
    assert set(CLASSES) == codes - {None}
    assert all((each.code, ServiceError in each.mro()) == (code, True) for code, each in CLASSES.items())
    assert set(CLASSES) - set(STATUSES) == set()


def test_the_import_is_light() -> None:
    """Importing the client loads no model and no server, in less than half a second of processor time."""
    seconds = []
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", IMPORT], check=True, capture_output=True, text=True)
        taken, modules = done.stdout.splitlines()
        assert not HEAVY & set(eval(modules))  # noqa: S307  # its own list
        seconds.append(float(taken))
        if seconds[-1] < 0.5:
            return
    raise AssertionError(f"the import took {min(seconds):.2f} s at best")
