"""The page on each kind of device: phones, small and large windows, dark, forced colours; and what axe says of it."""

from collections.abc import Iterator
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe

from tests.support.served import Server
from tests.support.visit import DESKTOP, PHONE, Visit, visiting

pytestmark = pytest.mark.slow

SIZES = """() => [...document.querySelectorAll("button, summary, select, input:not([type=file]), textarea")]
  .filter((each) => each.checkVisibility({ visibilityProperty: true }) && !each.matches(".link"))
  .map((each) => {
    const { width, height } = each.getBoundingClientRect(), name = each.id || each.className || each.textContent;
    return [name, height, width, parseFloat(getComputedStyle(each).fontSize), each.matches("input, select, textarea")];
  })"""

OUTSIDE = """() => [...document.querySelectorAll("button, summary, select, textarea, #results li")]
  .filter((each) => each.checkVisibility({ visibilityProperty: true }))
  .filter((each) => !each.closest("#settings, #strip, .menu > div, #frame"))
  .map((each) => [each.id || each.textContent, each.getBoundingClientRect()])
  .filter(([, { left, top, right, bottom }]) => Math.min(left, top) < -1 || right > innerWidth + 1
    || bottom > innerHeight + 1)
  .map(([name]) => name)"""
"""What can be pressed and is not wholly in the window."""


def overlap(one: dict[str, float], other: dict[str, float]) -> bool:
    """Whether two boxes share more than a border."""
    return all(
        one[start] + 1 < other[start] + other[side] and other[start] + 1 < one[start] + one[side]
        for start, side in (("x", "width"), ("y", "height"))
    )


def check(page: Any, state: str) -> None:
    """Asks axe."""
    found = Axe().run(page)
    assert found.violations_count == 0, f"{state}: {found.generate_report()}"


@pytest.fixture(params=["light", "dark", "forced", "phone"])
def device(request: pytest.FixtureRequest, chromium: Any, server: Server) -> Iterator[Visit]:
    """A visit with one of the looks."""
    looks: dict[str, dict[str, object]] = {
        "light": DESKTOP,
        "dark": {**DESKTOP, "color_scheme": "dark"},
        "forced": {**DESKTOP, "forced_colors": "active"},
        "phone": PHONE,
    }
    yield from visiting(chromium, server, looks[request.param])


def test_axe_finds_nothing_in_any_state(device: Visit) -> None:
    """From the empty page to a result, with everything that opens, axe finds nothing, and all is within the window."""
    page = device.page
    page.wait_for_selector("#ability button")
    check(page, "empty")
    page.click("#help")
    check(page, "shortcuts")
    page.keyboard.press("Escape")
    device.open()
    device.stroke()
    device.page.wait_for_timeout(300)
    check(page, "mask")
    assert page.evaluate(OUTSIDE) == []
    page.click("#mask-menu summary")
    check(page, "menu")
    page.keyboard.press("Escape")
    page.click("#settings-toggle")
    page.click("#more summary")
    page.wait_for_timeout(300)
    check(page, "settings")
    page.click("#settings-close")
    page.click("[data-tool=extend]")
    page.click("[data-side=left]")
    page.wait_for_timeout(100)
    check(page, "extending")
    assert page.evaluate(OUTSIDE) == []
    page.keyboard.press("Escape")
    page.click("#paint:not([disabled])")
    page.wait_for_selector("#region:not([hidden])")
    check(page, "painting")
    page.click("#cancel")
    device.message("Cancelled.")
    device.ask(num_images="2")
    device.wait_for_result()
    page.wait_for_timeout(400)
    check(page, "result")
    assert page.evaluate(OUTSIDE) == []
    page.evaluate("document.getElementById('subjects').showModal()")
    check(page, "subjects")


def test_phone_has_room_for_fingers(phone: Visit) -> None:
    """On a phone every control is large enough to press, no field makes the browser zoom in, results are in view."""
    phone.open()
    phone.stroke()
    for state in ("mask", "result"):
        for name, height, width, font, is_field in phone.page.evaluate(SIZES):
            assert height >= 40, (state, name)
            assert width >= 36, (state, name)
            assert not is_field or font >= 16, (state, name)
        if state == "mask":
            phone.ask()
            phone.wait_for_result()
    box = phone.box()
    assert box["y"] >= 0
    assert box["y"] + box["height"] <= 844
    assert phone.page.is_hidden(".pointer-only")


@pytest.mark.parametrize("size", [(320, 568), (390, 844), (844, 390), (1280, 720), (2560, 1440)])
def test_everything_is_in_the_window(visit: Visit, size: tuple[int, int]) -> None:
    """At any size, settings open or not, prompt and button stay in view, and nothing scrolls."""
    page = visit.page
    page.set_viewport_size({"width": size[0], "height": size[1]})
    visit.open()
    assert page.evaluate(OUTSIDE) == []
    page.wait_for_timeout(100)
    box, tools, ask = visit.box(), page.locator("#tools").bounding_box(), page.locator("#ask").bounding_box()
    for other in (tools, ask):  # nothing lies over the picture, nor over one another
        assert not overlap(box, other)
    assert not overlap(tools, ask)
    page.click("#settings-toggle")
    if size[0] > 760:
        page.click("#more summary")
        assert page.evaluate(OUTSIDE) == []
        box, stage = visit.box(), page.locator("#stage").bounding_box()
        assert box["x"] + box["width"] <= stage["x"] + stage["width"] + 1
    page.click("#settings-close")
    assert page.evaluate("[document.documentElement.scrollWidth <= innerWidth, scrollY]") == [True, 0]


def test_forced_colours_show_what_is_pressed(chromium: Any, server: Server) -> None:
    """In forced colours a pressed tool looks other than one that is not."""
    for visit in visiting(chromium, server, {**DESKTOP, "forced_colors": "active"}):
        visit.open()
        grounds = [
            visit.page.evaluate(
                f"getComputedStyle(document.querySelector('#tools [data-tool={name}]')).backgroundColor"
            )
            for name in ("brush", "eraser")
        ]
        assert grounds[0] != grounds[1]


def test_nothing_moves_for_those_who_asked_so(chromium: Any, server: Server) -> None:
    """With reduced motion nothing is animated."""
    for visit in visiting(chromium, server, DESKTOP):
        visit.open()
        visit.stroke()
        visit.ask(steps=40)
        visit.page.wait_for_selector("#region:not([hidden])")
        assert visit.page.evaluate("document.getAnimations().length") == 0
        visit.page.click("#cancel")
        visit.message("Cancelled.")


def test_a_result_is_uncovered(chromium: Any, server: Server) -> None:
    """Without such a wish, a new result is uncovered from right to left."""
    for visit in visiting(chromium, server, {**DESKTOP, "reduced_motion": "no-preference"}):
        visit.open()
        visit.stroke()
        visit.page.evaluate(
            """() => {
          window.seen = [];
          const note = ([{ target }]) => window.seen.push(Number(target.getAttribute("aria-valuenow")));
          const options = { attributes: true, attributeFilter: ["aria-valuenow"] };
          new MutationObserver(note).observe(document.getElementById("divider"), options);
        }"""
        )
        visit.ask()
        visit.page.wait_for_function("() => window.seen.length > 2 && window.seen.at(-1) === 0")
        seen = visit.page.evaluate("window.seen")
        assert max(seen) > 30
        assert seen[seen.index(max(seen)) :] == sorted(seen[seen.index(max(seen)) :], reverse=True)
