"""What people do on the picture: strokes, boxes, lassos, zoom and pan; with a mouse, with fingers, by keyboard."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.visit import PHOTO, Visit

pytestmark = pytest.mark.slow

WIDTH, HEIGHT = 600, 400
"""Of the photo."""


def share(mask: np.ndarray) -> float:
    """How much of a mask is white."""
    return float((mask > 127).mean())


def scale(visit: Visit) -> float:
    """Pixels of the window for one of the photo."""
    return visit.box()["width"] / WIDTH


def touch(session: Any, kind: str, *points: tuple[float, float]) -> None:
    """Sends fingers to the page, as a touchscreen does."""
    fingers = [{"x": x, "y": y, "id": i} for i, (x, y) in enumerate(points)]
    session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": fingers})


def test_strokes_undo_redo_erase_invert_fill_clear(visit: Visit) -> None:
    """A mask can be taken back stroke by stroke, erased, turned round, filled and cleared, and all of that undone."""
    page = visit.page
    visit.open()
    assert page.is_disabled("#undo")
    visit.stroke()
    stroke = share(visit.mask())
    assert 0.005 < stroke < 0.2
    page.click("#invert")
    assert share(visit.mask()) == pytest.approx(1 - stroke, abs=0.002)
    page.click("#undo")
    page.click("[data-tool=eraser]")
    visit.stroke()
    assert share(visit.mask()) == 0
    page.keyboard.press("Control+z")
    assert share(visit.mask()) == pytest.approx(stroke, abs=1e-3)
    page.click("#mask-menu summary")
    page.click("#fill")
    assert share(visit.mask()) == 1
    page.keyboard.press("Delete")
    assert share(visit.mask()) == 0
    for _ in range(3):
        page.keyboard.press("Control+z")
    assert share(visit.mask()) == 0
    assert page.is_disabled("#undo")
    page.keyboard.press("Control+Shift+z")
    page.keyboard.press("Control+y")
    assert share(visit.mask()) == 1
    assert not page.is_disabled("#redo")


def test_undo_with_the_button_held(visit: Visit) -> None:
    """It takes back the stroke that is being drawn; what the pointer does after that draws nothing."""
    visit.open()
    visit.stroke()
    stroke = share(visit.mask())
    mouse = visit.page.mouse
    mouse.move(*visit.at(0.2, 0.2))
    mouse.down()
    mouse.move(*visit.at(0.3, 0.2), steps=3)
    visit.page.keyboard.press("Control+z")
    mouse.move(*visit.at(0.8, 0.8), steps=3)
    mouse.up()
    assert share(visit.mask()) == pytest.approx(stroke, abs=1e-3)


def test_more_strokes_than_are_drawn_again(visit: Visit) -> None:
    """Undo goes back through any number of marks to none, whatever was kept of them on the way."""
    visit.open()
    visit.page.click("[data-tool=rectangle]")
    visit.page.focus("#surface")
    shares = [0.0]
    for _ in range(30):
        visit.page.keyboard.press("ArrowRight")
        visit.page.keyboard.press("Enter")
    for step in (1, 1, 28):
        for _ in range(step):
            visit.page.keyboard.press("Control+z")
        shares.append(share(visit.mask()))
    assert shares[1] > shares[2] > shares[3] == 0


def test_a_stroke_may_start_beside_the_picture(visit: Visit) -> None:
    """A stroke that starts and ends beside the picture covers the border between."""
    visit.open()
    visit.drag((-0.03, 0.3), (-0.03, 0.7))
    assert share(visit.mask()) == 0
    visit.drag((-0.05, 0.5), (1.05, 0.5))
    mask = visit.mask()
    assert (mask[HEIGHT // 2] == 255).all()
    assert share(mask) < 0.3


def test_rectangle_and_lasso_add_and_take_away(visit: Visit) -> None:
    """A rectangle has the corners it was dragged between, a lasso the outline it was drawn in; Alt takes away."""
    visit.open()
    visit.page.keyboard.press("r")
    visit.drag((0.25, 0.25), (0.75, 0.75))
    mask = visit.mask()
    rows, columns = np.nonzero(mask > 127)
    found = [columns.min() / WIDTH, columns.max() / WIDTH, rows.min() / HEIGHT, rows.max() / HEIGHT]
    assert found == pytest.approx([0.25, 0.75, 0.25, 0.75], abs=0.01)
    visit.page.keyboard.press("l")
    box = visit.box()
    corners = [(0.3, 0.3), (0.7, 0.3), (0.3, 0.7)]
    points = [(box["x"] + box["width"] * x, box["y"] + box["height"] * y) for x, y in corners]
    visit.page.keyboard.down("Alt")
    visit.page.mouse.move(*points[0])
    visit.page.mouse.down()
    for point in points[1:]:
        visit.page.mouse.move(*point, steps=4)
    assert visit.page.locator("#lasso").count() == 1
    visit.page.mouse.up()
    visit.page.keyboard.up("Alt")
    after = visit.mask()
    assert share(mask) - share(after) == pytest.approx(0.5 * 0.4 * 0.4, abs=0.01)
    assert after[int(0.4 * HEIGHT), int(0.4 * WIDTH)] == 0
    assert after[int(0.6 * HEIGHT), int(0.6 * WIDTH)] == 255
    assert visit.page.locator("#lasso").count() == 0


def test_soft_edge(visit: Visit) -> None:
    """A soft brush leaves a slope of greys, a hard one hardly any; the eraser can be soft too."""
    visit.open()
    page = visit.page

    def greys() -> float:
        mask = visit.mask()
        return float(((mask > 30) & (mask < 225)).sum() / max(1, (mask >= 225).sum()))

    visit.stroke()
    hard = greys()
    page.keyboard.press("Control+z")
    page.focus("#softness")
    page.keyboard.press("End")
    visit.stroke()
    assert greys() > max(0.3, 3 * hard)
    page.click("#mask-menu summary")
    page.click("#fill")
    page.click("[data-tool=eraser]")
    visit.stroke()
    assert visit.mask().min() < 30
    assert greys() > 0.004


def test_the_ring_shows_the_brush(visit: Visit) -> None:
    """The ring is as large as the brush while its size is set, by slider or by key, and as what it then draws."""
    visit.open()
    page = visit.page
    ring = page.locator("#ring")
    page.focus("#size")
    page.evaluate("document.getElementById('size').dispatchEvent(new Event('input', { bubbles: true }))")
    first = ring.bounding_box()
    assert first["width"] == pytest.approx(float(page.input_value("#size")), abs=4)
    box = visit.box()
    assert first["x"] + first["width"] / 2 == pytest.approx(box["x"] + box["width"] / 2, abs=60)
    page.mouse.move(*visit.at(0.5, 0.5))
    before = ring.bounding_box()["width"]
    page.keyboard.press("]")
    after = ring.bounding_box()["width"]
    assert after > before
    page.mouse.down()
    page.mouse.up()
    rows, _ = np.nonzero(visit.mask() > 127)
    assert (rows.max() - rows.min()) * scale(visit) == pytest.approx(after - 3, abs=3)


def test_keyboard_makes_a_mask(visit: Visit) -> None:
    """Without a mouse: a rectangle that arrow keys move and resize is added exactly where it is said to be."""
    visit.open()
    page = visit.page
    assert page.evaluate("document.activeElement.id") == "surface"
    page.keyboard.press("r")
    for keys in ("ArrowRight", "ArrowRight", "ArrowDown", "Shift+ArrowRight", "Shift+ArrowUp"):
        page.keyboard.press(keys)
    words = page.inner_text("#tool-status")
    page.keyboard.press("Enter")
    mask = visit.mask()
    rows, columns = np.nonzero(mask)
    found = (columns.max() - columns.min() + 1, rows.max() - rows.min() + 1, columns.min(), rows.min())
    assert words.startswith("Rectangle, {} by {}, at {}, {}.".format(*found))
    page.focus("#surface")
    page.keyboard.press("Backspace")
    assert share(visit.mask()) == 0


def test_wheel_space_and_keys_move_and_scale_the_view(visit: Visit) -> None:
    """A wheel scales around the pointer, Space and drag move, 0 fits, 1 shows pixels; strokes land where seen."""
    visit.open()
    page = visit.page
    fitted = visit.box()
    x, y = visit.at(0.5, 0.25)
    page.mouse.move(x, y)
    for _ in range(4):
        page.mouse.wheel(0, -240)
    page.wait_for_timeout(100)
    assert page.inner_text("#percent") != "100 %"
    page.mouse.down()
    page.mouse.up()
    rows, columns = np.nonzero(visit.mask() > 127)
    assert columns.mean() == pytest.approx(0.5 * WIDTH, abs=2)
    assert rows.mean() == pytest.approx(0.25 * HEIGHT, abs=2)
    page.keyboard.press("1")
    page.wait_for_timeout(100)
    assert visit.box()["width"] == pytest.approx(WIDTH, abs=2)
    before = visit.box()
    page.focus("#surface")
    page.mouse.move(x, y)
    page.keyboard.down(" ")
    page.mouse.down()
    page.mouse.move(x + 60, y + 30, steps=3)
    page.mouse.up()
    page.keyboard.up(" ")
    page.wait_for_timeout(100)
    after = visit.box()
    assert (after["x"] - before["x"], after["y"] - before["y"]) == pytest.approx((60, 30), abs=1.5)
    assert share(visit.mask()) < 0.05
    page.keyboard.press("0")
    page.wait_for_timeout(100)
    assert visit.box() == pytest.approx(fitted, abs=1.5)


def test_two_fingers_scale_and_one_draws(phone: Visit) -> None:
    """One finger draws; a second one takes its stroke back, and both move and scale the picture."""
    phone.open()
    page = phone.page
    session = page.context.new_cdp_session(page)
    x, y = phone.at(0.5, 0.5)
    touch(session, "touchStart", (x - 60, y))
    for step in range(1, 7):
        touch(session, "touchMove", (x - 60 + 20 * step, y))
    touch(session, "touchEnd")
    drawn = share(phone.mask())
    assert drawn > 0.01
    assert page.is_hidden("#ring")
    before = phone.box()
    touch(session, "touchStart", (x - 40, y))
    touch(session, "touchMove", (x - 42, y))
    touch(session, "touchStart", (x - 42, y), (x + 40, y))
    for step in range(1, 9):
        touch(session, "touchMove", (x - 42 - 10 * step, y + 10), (x + 40 + 10 * step, y + 10))
    touch(session, "touchEnd")
    page.wait_for_timeout(150)
    assert share(phone.mask()) == pytest.approx(drawn, abs=1e-3)  # drawn once more, edges differ a little
    after = page.inner_text("#percent")
    assert int(after.split()[0]) > 150 * before["width"] / WIDTH
    # A swipe over the picture scrolls nothing.
    assert page.evaluate("[scrollX, scrollY, document.documentElement.scrollHeight <= innerHeight]") == [0, 0, True]


def test_mask_from_a_file_and_from_transparency(visit: Visit, tmp_path: Path) -> None:
    """A mask's file, white or transparent, and a picture's own transparency become the mask; and it is saved."""
    levels = np.zeros((HEIGHT, WIDTH), np.uint8)
    levels[100:200, 150:300] = 255
    levels[200:250, 150:300] = 128
    Image.fromarray(levels).save(tmp_path / "mask.png")
    visit.open()
    visit.page.set_input_files("#mask-file", tmp_path / "mask.png")
    visit.page.wait_for_selector("#undo:not([disabled])")
    assert np.abs(visit.mask().astype(int) - levels).max() <= 2
    with Image.open(PHOTO) as photo:
        hole = photo.convert("RGBA")
    hole.putalpha(Image.fromarray(255 - levels))
    hole.save(tmp_path / "hole.png")
    visit.page.set_input_files("#mask-file", tmp_path / "hole.png")
    visit.page.wait_for_timeout(300)
    visit.open(tmp_path / "hole.png")
    visit.page.click("#mask-menu summary")
    visit.page.click("#mask-alpha")
    visit.page.wait_for_selector("#undo:not([disabled])")
    visit.page.wait_for_timeout(300)
    assert np.abs(visit.mask().astype(int) - levels).max() <= 2
    Image.new("L", (50, 50)).save(tmp_path / "square.png")
    visit.page.set_input_files("#mask-file", tmp_path / "square.png")
    visit.message("A mask needs its picture's shape.")
    visit.open()
    visit.page.click("#mask-menu summary")
    visit.page.click("#mask-alpha")
    visit.message("Nothing in this picture is transparent.")


def test_extend(visit: Visit) -> None:
    """The frame is dragged or chosen; the new part is masked with a slope into the old one, whose pixels stay."""
    visit.open()
    page = visit.page
    page.keyboard.press("x")
    page.click("[data-side=right]")
    page.focus("#frame button[aria-label='Move the upper side']")
    page.keyboard.press("ArrowUp")
    handle = page.locator("#frame button[aria-label='Move the left side']").bounding_box()
    x, y = handle["x"] + handle["width"] / 2, handle["y"] + handle["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x - 40, y, steps=4)
    page.mouse.up()
    width, height = (int(side) for side in page.inner_text("#extend-size").split(",")[0].split(" × "))
    assert width > WIDTH + 150
    assert height == HEIGHT + 32
    page.click("#extend-apply")
    visit.shows(f"{width} × {height}")
    mask = visit.mask()
    assert mask.shape == (height, width)
    left = int(np.nonzero(mask[height - 1] < 255)[0][0])
    inside = mask[32:, left : left + WIDTH]
    assert (mask[:31] == 255).all()
    assert (mask[:, : left - 1] == 255).all()
    assert (inside[HEIGHT // 2, WIDTH // 3 : WIDTH // 2] == 0).all()
    assert len(set(inside[HEIGHT // 2, WIDTH - 20 :].tolist())) > 10  # a slope
    assert page.input_value("#prompt") == "continuation of the scene, seamless"
    visit.ask("continuation of the scene")
    result = visit.result()
    with Image.open(PHOTO) as photo:
        before = np.asarray(photo.convert("RGB"))
    kept = inside == 0
    assert (result[32:, left : left + WIDTH][kept] == before[kept]).all()
    page.click("#back")
    page.click("#clear")
    page.keyboard.press("Control+z")
    page.keyboard.press("Control+z")
    page.keyboard.press("Control+z")
    visit.shows(f"{WIDTH} × {HEIGHT}")


def test_extend_to_a_shape(visit: Visit) -> None:
    """A ratio gives the smallest frame of that shape around the picture; Escape leaves the picture as it is."""
    visit.open()
    visit.page.keyboard.press("x")
    visit.page.select_option("#ratio", "1")
    width, height = (int(side) for side in visit.page.inner_text("#extend-size").split(",")[0].split(" × "))
    assert width == WIDTH
    assert height == pytest.approx(WIDTH, abs=8)
    visit.page.keyboard.press("Escape")
    assert visit.page.is_hidden("#frame")
    assert "600 × 400" in visit.page.inner_text("#name")


def test_a_large_photo_is_drawn_on_at_once(visit: Visit, tmp_path: Path) -> None:
    """On 12 megapixels, at any zoom, a move of the brush costs the page little, and the mask has all of its pixels."""
    Image.effect_noise((1000, 750), 60).resize((4000, 3000)).convert("RGB").save(tmp_path / "large.jpg", quality=60)
    visit.open(tmp_path / "large.jpg")
    page = visit.page
    for keys in ("0", "1"):
        page.keyboard.press(keys)
        page.wait_for_timeout(200)
        # The processor's time within the page's own work for a move, which a busy machine stretches a little only.
        median = page.evaluate(
            """async () => {
              const surface = document.getElementById("surface");
              const { left, top, width, height } = surface.getBoundingClientRect();
              const send = (kind, i) => surface.dispatchEvent(new PointerEvent(kind, {
                pointerId: 1, isPrimary: true, bubbles: true, clientX: left + width * 0.3 + i * 6,
                clientY: top + height / 2 + 40 * Math.sin(i / 5) }));
              surface.setPointerCapture = () => {};
              send("pointerdown", 0);
              const times = [];
              for (let i = 1; i < 60; i++) {
                const began = performance.now();
                send("pointermove", i);
                times.push(performance.now() - began);
                await new Promise(requestAnimationFrame);
              }
              send("pointerup", 60);
              return times.sort((a, b) => a - b)[30];
            }"""
        )
        assert median < 16
    mask = visit.mask()
    assert mask.shape == (3000, 4000)
    assert 0 < share(mask) < 0.2
