"""The whole service over devices that sleep, for ``bentoml serve tests.support.sleeping_service:SDInpaint``."""

from typing import ClassVar

from sd_inpaint.http.application import Application
from sd_inpaint.http.bento.metrics_folder import separate_metrics
from sd_inpaint.http.service import declare
from sd_inpaint.painter import Painter
from sd_inpaint.settings import Settings
from tests.support.sleeping import MAKE


class SleepingPainter(Painter):
    """The real one but for its devices."""

    load: ClassVar[str] = MAKE


separate_metrics()
SDInpaint = declare(Application(Settings.read(), host="127.0.0.1", make_painter=SleepingPainter))
