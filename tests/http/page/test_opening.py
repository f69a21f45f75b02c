"""How pictures come onto the page, and how the page comes to its visitor."""

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.field.pictures import colourful
from tests.support.served import Server
from tests.support.visit import PHOTO, Visit, refuse
from tools.demo_model.objects import OBJECTS

pytestmark = pytest.mark.slow


SLOW_DECODING = """
const { decode } = HTMLImageElement.prototype;
HTMLImageElement.prototype.decode = async function () {
  await new Promise((done) => setTimeout(done, 2500));
  return decode.call(this);
};
"""
"""Pictures take their time, longer than the page waits before it asks for the service's health once more."""


def drop(visit: Visit, name: str, kind: str, data: bytes | int, event: str = "drop") -> None:
    """Drops or pastes a file onto the page: with these bytes, or with this many zeros."""
    visit.page.evaluate(
        """([name, type, data, kind]) => {
      const transfer = new DataTransfer();
      transfer.items.add(new File([new Uint8Array(data)], name, { type }));
      const target = document.activeElement ?? document.body;
      const how = { clipboardData: transfer, dataTransfer: transfer, bubbles: true, cancelable: true };
      target.dispatchEvent(kind === "paste" ? new ClipboardEvent("paste", how) : new DragEvent("drop", how));
    }""",
        [name, kind, data if isinstance(data, int) else list(data), event],
    )


def png(size: tuple[int, int]) -> bytes:
    """A picture's file."""
    buffer = io.BytesIO()
    colourful(size).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_file_that_cannot_be_opened_changes_nothing(visit: Visit, tmp_path: Path) -> None:
    """A broken file, a text, a picture beyond a limit: it is said in words, and what was open stays with its mask."""
    broken = tmp_path / "broken.heic"
    broken.write_bytes(b"no picture")
    visit.open()
    visit.stroke()
    mask = visit.mask()
    visit.page.set_input_files("#file", broken)
    visit.message("“broken.heic” could not be opened. This file is damaged, or no picture that can be read.")
    drop(visit, "page.css", "text/css", b"p {}")
    visit.message("“page.css” is not a picture.")
    drop(visit, "large.png", "image/png", 3_100_000)
    visit.message("“large.png” has 3 MB, and this server takes 3.")
    box = visit.box()
    assert box["width"] / box["height"] == pytest.approx(1.5, abs=0.02)
    assert (visit.mask() == mask).all()
    visit.ask()
    visit.wait_for_result()
    assert "photo.jpg" in visit.page.inner_text("#name")


def test_too_many_pixels_are_refused_before_anything_is_sent(visit: Visit) -> None:
    """A picture with more pixels than the service takes is refused as it is opened, with both numbers."""

    def lower(route: Any) -> None:
        info = route.fetch().json()
        info["limits"]["max_pixels"] = 1_000_000
        route.fulfill(json=info)

    visit.page.route("**/sd-inpaint/info", lower)
    visit.page.reload()
    visit.page.wait_for_selector("[name=guidance_scale]", state="attached")
    drop(visit, "large.png", "image/png", png((1200, 1000)))
    visit.message("“large.png” has 1.2 megapixels, and this server takes 1.0.")
    assert visit.mode == "empty"


def test_what_replaces_a_picture_can_be_undone(visit: Visit) -> None:
    """A dropped, pasted or chosen picture takes the other one's place until Undo brings that back with its mask."""
    visit.open()
    visit.stroke()
    drop(visit, "second.png", "image/png", png((320, 240)))
    visit.shows("second.png")
    visit.page.focus("#prompt")
    drop(visit, "third.png", "image/png", png((200, 200)), event="paste")
    visit.shows("third.png")
    visit.page.click("#notice-action")
    visit.shows("second.png")
    visit.page.click("#undo")
    visit.shows("photo.jpg")
    assert visit.mask().max() == 255
    visit.page.click("#redo")
    visit.shows("second.png")


@pytest.mark.parametrize(
    ("size", "viewport"), [((64, 43), (390, 700)), ((600, 400), (1920, 1080)), ((40, 900), (1280, 720))]
)
def test_pictures_are_fitted_to_the_stage(
    visit: Visit, tmp_path: Path, size: tuple[int, int], viewport: tuple[int, int]
) -> None:
    """A small picture is enlarged, a large one made to fit, in the middle of what nothing covers."""
    visit.page.set_viewport_size({"width": viewport[0], "height": viewport[1]})
    file = tmp_path / "picture.png"
    colourful(size).save(file)
    visit.open(file)
    box = visit.box()
    stage = visit.page.locator("#stage").bounding_box()
    enlarged = box["width"] / size[0]
    is_wide = box["width"] > 0.8 * stage["width"]
    is_high = box["height"] > 0.6 * stage["height"]
    assert is_wide or is_high or enlarged == pytest.approx(6, abs=0.1)
    assert box["x"] >= stage["x"]
    assert box["x"] + box["width"] <= stage["x"] + stage["width"]
    ask = visit.page.locator("#ask").bounding_box()
    assert box["y"] + box["height"] <= ask["y"]


def test_each_sample_works_at_once(visit: Visit) -> None:
    """A sample brings its picture, its mask and its prompt; one press paints it. What the model can paint is said."""
    page = visit.page
    page.locator("#ability").filter(has_text=f"It paints {len(OBJECTS)} things").wait_for()
    for i, name in enumerate(("cat.jpg", "stream.jpg", "meadow.jpg")):
        if i:
            page.evaluate("(i) => document.querySelectorAll('#samples button')[i].click()", i)
        else:
            page.click("#samples button >> nth=0")
        visit.shows(name)
        assert 0.01 < (visit.mask() > 127).mean() < 0.3
        assert page.inner_text("#paint") == ("Remove" if name == "meadow.jpg" else "Paint")
    visit.set(num_inference_steps="4")
    page.click("#paint")
    visit.wait_for_result()


def test_subjects_fill_the_prompt(visit: Visit) -> None:
    """The things that the model knows are listed, and one that is chosen becomes the prompt."""
    visit.page.click("#ability button")
    assert visit.page.locator("#subject-list button").count() == len(OBJECTS)
    visit.page.click("#subject-list button >> text=octopus")
    assert visit.page.input_value("#prompt") == "octopus"


def test_shortcuts_are_listed(visit: Visit) -> None:
    """A question mark lists the shortcuts, Escape closes the list, and Ctrl+Enter paints while one types."""
    visit.page.keyboard.press("?")
    text = visit.page.inner_text("#shortcut-list")
    assert {"Paint", "Undo", "Brush", "Extend the picture", "Hold to see the picture before"} <= set(text.splitlines())
    visit.page.keyboard.press("Escape")
    assert visit.page.is_hidden("#shortcuts")
    visit.open()
    visit.stroke()
    visit.set(num_inference_steps="2")
    for keys in ("u", "a", "d", "ArrowLeft"):  # of results, of which there are none
        visit.page.keyboard.press(keys)
    stroke = visit.mask().mean()
    visit.page.keyboard.press("i")  # as the button's title says
    assert visit.mask().mean() == pytest.approx(255 - stroke, abs=1)
    visit.page.keyboard.press("Control+z")
    visit.page.keyboard.press("s")
    assert visit.page.is_visible("#settings")
    visit.page.click("#settings-close")
    visit.page.focus("#prompt")
    visit.page.keyboard.type("bed [r]ose")  # keys of tools, which are letters here
    assert visit.page.get_attribute("#tools [data-tool=brush]", "aria-pressed") == "true"
    visit.page.keyboard.press("Control+Enter")
    visit.wait_for_result()


def test_a_loading_model_is_no_error(visit: Visit) -> None:
    """While the model loads the page says so calmly, lets people begin, and goes on by itself."""
    answers = iter([refuse("model_loading", 503, "1")] * 2)

    def health(route: Any) -> None:
        answer = next(answers, None)
        if answer:
            route.fulfill(**answer)
        else:
            route.continue_()

    visit.page.route("**/sd-inpaint/health", health)
    visit.page.reload()
    visit.message("The model is loading. You can open a picture and mark a part meanwhile.")
    assert visit.page.locator("#notice.wrong").count() == 0
    visit.open()
    visit.stroke()
    assert visit.page.is_disabled("#paint")
    visit.page.wait_for_selector("#paint:not([disabled])")
    assert visit.page.inner_text("#message") == ""
    answers = iter([refuse("model_loading", 503, "1")] * 30)
    visit.page.fill("#prompt", "a red rose")
    visit.page.wait_for_timeout(700)
    visit.page.add_init_script(SLOW_DECODING)
    visit.page.reload()
    visit.shows("photo.jpg")  # though the model is not there, and said so before the picture was
    visit.stroke()
    visit.page.wait_for_timeout(700)
    answers = iter([])
    visit.page.reload()
    visit.page.wait_for_function("() => document.getElementById('prompt').value === 'a red rose'")


def test_a_key_is_asked_for_and_kept(visit: Visit) -> None:
    """Where the service wants a key the page asks, in plain words, sends it as a bearer, and keeps it in the tab."""
    seen: list[str] = []

    def guard(route: Any) -> None:
        key = route.request.headers.get("authorization", "")
        seen.append(key)
        if key == "Bearer sesame":
            route.continue_()
        else:
            route.fulfill(**refuse("unauthorized", 401))

    visit.page.route("**/sd-inpaint/info", guard)
    visit.page.reload()
    visit.page.wait_for_selector("#ask-key[open]")
    visit.page.keyboard.type("wrong")
    visit.page.keyboard.press("Enter")
    visit.page.wait_for_function("() => document.getElementById('asked-key').value === ''")
    visit.page.keyboard.type("sesame")
    visit.page.keyboard.press("Enter")
    visit.page.wait_for_selector("[name=guidance_scale]", state="attached")
    assert visit.page.is_hidden("#ask-key")
    visit.page.reload()
    visit.page.wait_for_selector("[name=guidance_scale]", state="attached")
    assert seen == ["", "Bearer wrong", "Bearer sesame", "Bearer sesame"]


def test_behind_a_path_of_a_proxys(chromium: Any, server: Server) -> None:
    """Below another path, as behind a proxy, everything works and nothing is asked for outside of that path."""
    context = chromium.new_context()
    page = context.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.route("**/tools/paint/**", lambda route: route.continue_(url=route.request.url.replace("/tools/paint/", "/")))
    visit = Visit(page, f"{server.url}/tools/paint/").come()
    visit.open(PHOTO)
    visit.stroke()
    visit.ask()
    visit.wait_for_result()
    inside = (f"{server.url}/tools/paint/", "blob:", "data:")
    assert [address for address in asked if not address.startswith(inside)] == []
    context.close()


def test_two_tabs_keep_apart(visit: Visit) -> None:
    """Each tab has its own picture over a reload; a new tab takes up what a closed one has left."""
    visit.open()
    visit.page.wait_for_timeout(700)
    other = visit.page.context.new_page()
    second = Visit(other, visit.url).come()
    assert second.mode == "empty"
    drop(second, "second.png", "image/png", png((320, 240)))
    second.shows("second.png")
    other.wait_for_timeout(700)
    visit.page.reload()
    visit.shows("photo.jpg")
    other.reload()
    second.shows("second.png")
    other.wait_for_timeout(700)
    other.close(run_before_unload=True)
    visit.page.wait_for_timeout(300)
    third = Visit(visit.page.context.new_page(), visit.url).come()
    third.shows("second.png")


def test_first_use_on_a_slow_line(visit: Visit) -> None:
    """All of the page comes in few bytes, and its modules all at once rather than one after another."""
    entries = visit.page.evaluate(
        "performance.getEntriesByType('resource').map((each) => [each.name, each.initiatorType, each.encodedBodySize])"
    )
    modules = [how for name, how, _ in entries if name.endswith(".js")]
    assert len(modules) > 10
    # By the page's own links, and not by one another.
    assert modules.count("other") + modules.count("link") >= len(modules) - 1, modules
    assert sum(size for name, _, size in entries if re.search(r"\.(js|css|svg)$", name)) < 41_500


def test_colours_need_no_new_functions() -> None:
    """No style needs what browsers of 2023 lack, and every colour is there without it."""
    styles = (Path(__file__).parents[3] / "src/sd_inpaint/http/static/page.css").read_text("utf-8")
    assert "light-dark(" not in styles
    assert np.all([f"{name}:" in styles for name in ("--stage", "--panel", "--ink", "--accent")])
    with Image.open(PHOTO) as photo:
        assert photo.size == (600, 400)
