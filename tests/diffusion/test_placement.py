"""Which devices work, by what there is and what the operator says."""

import pytest

from sd_inpaint.diffusion.placement import place
from sd_inpaint.errors import SettingsError
from sd_inpaint.settings import Settings


def devices(cuda_devices: int, cores: int = 8, **settings: object) -> list[tuple[str, int | None]]:
    """Returns device and threads of each process."""
    placed = place(Settings(_env_file=None, **settings), cuda_devices=cuda_devices, cores=cores)  # type: ignore[call-arg]
    return [(one.device, one.threads) for one in placed]


def test_auto_is_one_for_each_card() -> None:
    """A machine with four cards has four; one with a single card, or none, is served by the server's own process."""
    assert devices(4) == [(f"cuda:{number}", None) for number in range(4)]
    assert devices(1) == [("auto", None)]
    assert devices(0) == [("auto", None)]


def test_operator_takes_fewer_cards() -> None:
    """The first ones are taken."""
    assert devices(4, workers=2) == [("cuda:0", None), ("cuda:1", None)]
    assert devices(4, workers=1) == [("auto", None)]
    assert devices(4, device="cuda") == [(f"cuda:{number}", None) for number in range(4)]


def test_named_device_is_one() -> None:
    """Whoever names a card has that card."""
    assert devices(4, device="cuda:2") == [("cuda:2", None)]
    assert devices(4, device="cpu") == [("cpu", None)]


def test_cpu_processes_share_the_cores() -> None:
    """Threads of one process are not in another's way."""
    assert devices(0, workers=2) == [("cpu", 4)] * 2
    assert devices(0, cores=2, workers=4) == [("cpu", 1)] * 4
    assert devices(0, workers=2, threads=3) == [("cpu", 3)] * 2
    assert devices(4, device="cpu", workers=2) == [("cpu", 4)] * 2


@pytest.mark.parametrize(
    ("cards", "settings"),
    [(2, {"workers": 3}), (4, {"device": "cuda:1", "workers": 2}), (0, {"device": "mps", "workers": 2})],
)
def test_more_workers_than_devices_are_refused(cards: int, settings: dict[str, object]) -> None:
    """A second copy of the model on a card helps nobody, so the operator is told."""
    with pytest.raises(SettingsError, match="SD_INPAINT_WORKERS="):
        devices(cards, **settings)
