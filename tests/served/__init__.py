"""Tests against ``bentoml serve``, as clients call it."""
