"""The only import of BentoML's private modules, whose version is pinned; tests/http/bento/ reads what they rely on."""

from bentoml._internal.server.http.traffic import TimeoutMiddleware
from bentoml._internal.service.openapi.specification import OpenAPISpecification, PathItem, Schema

__all__ = ["OpenAPISpecification", "PathItem", "Schema", "TimeoutMiddleware"]
