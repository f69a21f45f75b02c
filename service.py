"""The service as BentoML finds it in a clone and in a Bento: ``bentoml serve service:SDInpaint``.

What is installed is served as ``sd_inpaint.http.service:SDInpaint``, which this is, by ``sd-inpaint serve``.
"""

from sd_inpaint.http.service import SDInpaint

__all__ = ["SDInpaint"]
