"""The memory budget: what is held is counted, who does not fit waits or is refused, and nothing is lost on the way."""

import asyncio
from collections.abc import Iterator

import pytest

from sd_inpaint.errors import ImageTooLargeError, QueueFullError
from sd_inpaint.work.fair_line import Share
from sd_inpaint.work.memory_budget import AHEAD_SHARE, LIGHT_BYTES, MemoryBudget, memory_limit_bytes, resident_bytes

MIB = 1024**2


@pytest.fixture
def budget() -> Iterator[MemoryBudget]:
    """A budget that holds nothing at the end of each test."""
    made = MemoryBudget(2000 * MIB, max_upload_bytes=200 * MIB)
    yield made
    assert made.held_bytes == 0


def test_what_never_fits_is_refused_for_good(budget: MemoryBudget) -> None:
    """A picture beyond the pool is a 413 with the bound, whether it would wait or not."""
    with pytest.raises(ImageTooLargeError, match="MiB") as refused:
        budget.pictures.hold(1500 * MIB)
    assert refused.value.facts["reason"] == "memory"
    with pytest.raises(ImageTooLargeError):
        asyncio.run(budget.pictures.wait(1500 * MIB))


def test_what_does_not_fit_now_is_refused_for_now(budget: MemoryBudget) -> None:
    """Uploads beyond their part have to come again; released ones make room, and releasing twice counts once."""
    held = budget.uploads.hold()
    held.grow(200 * MIB)
    with pytest.raises(QueueFullError) as refused:
        held.grow(1)
    assert refused.value.retry_after_seconds >= 1
    assert budget.held_bytes == 200 * MIB
    held.release()
    held.release()
    with budget.uploads.hold(150 * MIB):
        assert budget.uploads.held_bytes == 150 * MIB


def test_fixed_part_counts(budget: MemoryBudget) -> None:
    """Weights take their part of the memory before any picture does."""
    budget.set_fixed(1900 * MIB)
    assert budget.held_bytes == 1900 * MIB
    with pytest.raises(ImageTooLargeError):
        budget.pictures.hold(100 * MIB)
    budget.set_fixed(0)
    budget.pictures.hold(100 * MIB).release()


def test_waiting_in_order(budget: MemoryBudget) -> None:
    """First come, first served; a large one is not overtaken by large ones for ever, but by small and urgent ones."""
    order: list[str] = []

    async def wait(name: str, size: int, *, is_urgent: bool = False) -> None:
        with await budget.pictures.wait(size, is_urgent=is_urgent):
            order.append(name)
            await asyncio.sleep(0.01)

    async def run() -> None:
        first = await budget.pictures.wait(1000 * MIB)
        tasks = [
            asyncio.create_task(wait("large", 1300 * MIB)),
            asyncio.create_task(wait("fits, but comes later", 500 * MIB)),
            asyncio.create_task(wait("light", LIGHT_BYTES)),
            asyncio.create_task(wait("urgent", 1200 * MIB, is_urgent=True)),
        ]
        await asyncio.sleep(0.05)
        assert order == ["light"]
        first.release()
        await asyncio.gather(*tasks)

    asyncio.run(run())
    assert order == ["light", "urgent", "large", "fits, but comes later"]


def test_a_flooder_s_waits_do_not_delay_another_caller(budget: MemoryBudget) -> None:
    """However much of one caller's waits for room, another's single picture is next but one."""
    order: list[str] = []

    async def wait(caller: str) -> None:
        with await budget.pictures.wait(1000 * MIB, share=Share(caller)):
            order.append(caller)
            await asyncio.sleep(0)

    async def run() -> None:
        flood = [asyncio.create_task(wait("flooder")) for _ in range(6)]
        await asyncio.sleep(0)
        await asyncio.gather(wait("other"), *flood)

    asyncio.run(run())
    assert sorted(order) == ["flooder"] * 6 + ["other"]
    assert order.index("other") <= 2


@pytest.mark.parametrize("admitted", [True, False])
def test_who_leaves_holds_nothing(budget: MemoryBudget, admitted: bool) -> None:
    """A caller who leaves while waiting, or in the moment of being admitted, leaves no bytes behind."""

    async def run() -> None:
        first = await budget.pictures.wait(1000 * MIB)
        task = asyncio.create_task(budget.pictures.wait(1000 * MIB))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        if admitted:
            first.release()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        first.release()

    asyncio.run(run())


def test_ahead_leaves_room(budget: MemoryBudget) -> None:
    """What is decoded ahead of its turn leaves room for the largest picture that is admitted at all."""
    ahead = budget.pictures.hold(int(budget.pictures.max_bytes * AHEAD_SHARE), share=AHEAD_SHARE)
    with pytest.raises(QueueFullError):
        budget.pictures.hold(1, share=AHEAD_SHARE)
    largest = int(budget.pictures.max_bytes * (1 - AHEAD_SHARE))
    with asyncio.run(budget.pictures.wait(largest)):
        pass
    ahead.release()


def test_limits_of_this_machine() -> None:
    """The default is a real bound, and what this process has is within it."""
    assert 64 * MIB < resident_bytes() < memory_limit_bytes()
