"""What BentoML is told of the endpoints."""

import service
from sd_inpaint.schema import InpaintParameters
from tests.support.edge import INPAINT


def test_schema_lists_every_parameter() -> None:
    """BentoML's schema has image, mask and each parameter in order, with defaults and bounds; out comes a picture."""
    routes = {route["name"]: route for route in service.SDInpaint.schema()["routes"]}
    assert {name: route["route"] for name, route in routes.items()} == {
        "inpaint": INPAINT,
        "health": "/sd-inpaint/health",
    }
    schema, output = routes["inpaint"]["input"], routes["inpaint"]["output"]
    assert list(schema["properties"]) == ["image", "mask", *InpaintParameters.model_fields]
    assert schema["required"] == ["image", "mask", "prompt"]
    assert schema["properties"]["image"]["type"] == "file"
    for name, field in InpaintParameters.model_fields.items():
        if not field.is_required():
            assert schema["properties"][name]["default"] == field.default
    steps = schema["properties"]["num_inference_steps"]
    assert (steps["type"], steps["minimum"], steps["maximum"]) == ("integer", 1, 150)
    assert (output["type"], output["format"], output["media_type"]) == ("file", "image", "image/png")
