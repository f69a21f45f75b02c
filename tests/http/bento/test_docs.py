"""The OpenAPI description."""

import pytest

from tests.support.edge import INPAINT, App


@pytest.mark.contract
def test_description_has_text_fields_formats_errors_and_get_endpoints(app: App) -> None:
    """The OpenAPI description has plain text fields, every format, the one error shape, and the GET endpoints."""
    spec = app.client.get("/docs.json").json()
    post = spec["paths"][INPAINT]["post"]
    form = post["requestBody"]["content"]["multipart/form-data"]
    assert form["schema"]["properties"]["prompt"]["type"] == "string"
    assert set(form["encoding"]) == {"image", "mask"}
    assert set(post["responses"]["200"]["content"]) >= {"image/png", "application/json"}
    assert {"400", "413", "415", "422", "429", "500", "503", "504"} <= set(post["responses"])
    assert "get" in spec["paths"]["/sd-inpaint/health"]
    assert "get" in spec["paths"]["/sd-inpaint/info"]
    assert "Error" in spec["components"]["schemas"]
