"""What people ask for on the page, how they wait for it, and what they get."""

import base64
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.field.pictures import colourful
from tests.field.turned import TURNED
from tests.support.pictures import opened
from tests.support.visit import PHOTO, Visit, refuse

pytestmark = pytest.mark.slow

HEIGHT, WIDTH = 400, 600
"""Of the photo."""

SHOWN = """() => {
  const canvas = document.getElementById("picture");
  return canvas.toDataURL().split(",")[1];
}"""
"""What the stage shows of the picture, as a PNG."""


def before() -> np.ndarray:
    """The photo's pixels."""
    with Image.open(PHOTO) as image:
        return np.asarray(image.convert("RGB"))


def test_result_keeps_every_other_pixel_and_is_new_each_time(visit: Visit) -> None:
    """What is downloaded is new under the stroke, the input elsewhere, and has its name; the next one differs."""
    visit.open()
    visit.page.click("#paint:not([disabled])")
    visit.message("First mark the part of the picture that should change.")
    assert visit.page.locator("#notice.wrong").count() == 1
    visit.stroke()
    assert visit.page.inner_text("#message") == ""  # it was done
    mask = visit.mask()
    visit.ask(steps=3)
    visit.wait_for_result()
    name, data = visit.download()
    first = opened(data)
    assert name == "photo.png"
    assert (first[mask == 0] == before()[mask == 0]).all()
    assert (first != before())[mask == 255].any(-1).mean() > 0.9
    visit.page.click("#again")
    visit.page.wait_for_function("() => document.querySelectorAll('#results li').length === 2")
    second = visit.result()
    forms = visit.sent()
    assert (second != first)[mask == 255].any()
    assert forms[0]["seed"] != forms[1]["seed"]
    assert {name: forms[1][name] for name in ("prompt", "num_inference_steps", "image")} == {
        "prompt": "a red rose",
        "num_inference_steps": "3",
        "image": "photo.jpg",
    }
    # The strip's older one has its seed, and paints the same bytes again.
    visit.page.click("#results button >> nth=1")
    visit.page.locator("#recall-text").filter(has_text=f"seed {forms[0]['seed']}").wait_for()
    visit.page.fill("#prompt", "something else")
    visit.page.click("#reuse")
    assert visit.page.input_value("#prompt") == "a red rose"
    assert f"Seed {forms[0]['seed']}" in visit.page.inner_text("#keep-seed")
    visit.page.keyboard.press("Control+Enter")
    visit.page.wait_for_function("() => document.querySelectorAll('#results li').length === 3")
    assert (visit.result() == first).all()


def test_two_presses_are_one_painting(visit: Visit) -> None:
    """Who presses twice has one job, and no second one that nothing on the page could cancel."""
    visit.open()
    visit.stroke()
    visit.set(num_inference_steps="2")
    visit.page.evaluate("() => [1, 2].forEach(() => document.getElementById('ask').requestSubmit())")
    visit.wait_for_result()
    assert len(visit.sent()) == 1


def test_removal_needs_no_prompt_and_ideas_fill_it(visit: Visit) -> None:
    """An empty prompt removes; the guide's use cases fill prompt and negative prompt."""
    visit.open()
    visit.stroke()
    assert visit.page.inner_text("#paint") == "Remove"
    visit.page.click("#ideas summary")
    visit.page.click("#idea-list button >> nth=0")
    assert visit.page.input_value("#prompt") == "empty background, natural scene"
    assert visit.page.input_value("[name=negative_prompt]") == "object, person, watermark"
    assert visit.page.inner_text("#paint") == "Paint"
    texts = visit.page.locator("#idea-list small").all_inner_texts() if visit.page.is_visible("#idea-list") else []
    assert texts == []  # it closed by itself
    visit.page.fill("#prompt", "")
    visit.ask(prompt="")
    visit.wait_for_result()
    assert visit.sent()[0]["prompt"] == ""
    assert "Removal" in visit.page.inner_text("#recall-text")


def test_variants_compare_use_and_undo(visit: Visit) -> None:
    """Variants are marked; a divider and a key compare; a result becomes the input in one step, and that is undone."""
    page = visit.page
    visit.open()
    visit.stroke()
    visit.ask(num_images="3")
    visit.wait_for_result()
    assert page.locator("#results li").count() == 3
    assert page.locator("#results [aria-current=true]").count() == 1
    assert "1 of 3" in page.inner_text("#recall-text")
    page.keyboard.press("ArrowRight")  # of the divider, which has the focus
    page.wait_for_selector("#divider[aria-valuenow='5']")
    page.focus("#surface")
    page.keyboard.press("ArrowRight")
    page.locator("#recall-text").filter(has_text="2 of 3").wait_for()
    assert page.get_attribute("#results li:nth-child(2) button", "aria-current") == "true"

    def middle() -> list[int]:
        pixels = opened(base64.b64decode(page.evaluate(SHOWN)))
        rows, columns = np.nonzero(pixels[..., 3])
        return [int(v) for v in pixels[(rows.min() + rows.max()) // 2, (columns.min() + columns.max()) // 2, :3]]

    after = middle()
    x, y = visit.at(0.0, 0.5)
    page.mouse.move(x + 2, y)
    page.mouse.down()
    page.mouse.move(*visit.at(0.8, 0.5), steps=5)
    page.mouse.up()
    page.wait_for_timeout(100)
    assert page.get_attribute("#divider", "aria-valuenow") == "80"
    original = middle()
    assert original != after
    page.focus("#divider")
    page.keyboard.press("Home")
    page.keyboard.down("\\")
    page.wait_for_timeout(100)
    assert middle() == original
    page.keyboard.up("\\")
    page.wait_for_timeout(100)
    assert middle() == after
    page.click("#use")
    visit.shows("photo.png")
    assert visit.mode == "mask"
    assert visit.mask().max() == 0
    page.click("#notice-action")  # Undo
    visit.shows("photo.jpg")
    assert visit.mask().max() == 255


def test_download_in_other_formats_and_copy(visit: Visit) -> None:
    """A result is saved as JPEG and WebP under the picture's name, and copied as a PNG."""
    visit.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    visit.open()
    visit.stroke()
    visit.ask()
    painted = visit.result()
    for label, name, kind in (("jpeg", "photo.jpg", "JPEG"), ("webp", "photo.webp", "WEBP")):
        found, data = visit.download(label)
        assert found == name
        assert np.abs(opened(data).astype(int) - painted).mean() < 4
        assert data[:4] == {"JPEG": b"\xff\xd8\xff\xe0", "WEBP": b"RIFF"}[kind]
    visit.page.click("#copy")
    visit.message("Copied.")
    read = """async () => {
      const [item] = await navigator.clipboard.read(), reader = new FileReader();
      reader.readAsDataURL(await item.getType("image/png"));
      await new Promise((done) => { reader.onload = done; });
      return reader.result.split(",")[1];
    }"""
    assert (opened(base64.b64decode(visit.page.evaluate(read)))[..., :3] == painted).all()
    assert visit.page.evaluate("window.held.size") <= 3  # what is being downloaded


@pytest.mark.parametrize("way", ["JPEG, EXIF", "PNG, XMP", "WebP, EXIF", "AVIF, boxes", "HEIC, boxes", "TIFF, its tag"])
def test_what_is_shown_is_what_is_painted(visit: Visit, tmp_path: Path, way: str) -> None:
    """However a file says how it is turned, and whether browsers show it or not, the hole is where it was painted."""
    file = tmp_path / "turned"
    file.write_bytes(TURNED[way].make(colourful((300, 200)), 6))
    visit.open(file)
    visit.page.keyboard.press("1")
    visit.page.wait_for_timeout(100)
    pixels = opened(base64.b64decode(visit.page.evaluate(SHOWN)))
    rows, columns = np.nonzero(pixels[..., 3])
    shown = pixels[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1, :3].astype(int)
    visit.stroke()
    mask = visit.mask()
    visit.ask()
    painted = visit.result()
    assert painted.shape[:2] == mask.shape == shown.shape[:2]
    assert np.abs(painted - shown)[mask == 255].mean() > 5
    assert np.abs(painted - shown)[mask == 0].mean() < 2


def test_another_picture_while_one_is_painted(visit: Visit, tmp_path: Path) -> None:
    """A result belongs to the picture and the mask it was sent with, whatever was opened meanwhile."""
    other = tmp_path / "other.png"
    colourful((320, 240)).save(other)
    visit.open()
    visit.stroke()
    visit.ask(steps=30)
    visit.page.locator("#step").filter(has_text="Step").wait_for()
    visit.open(other)
    assert visit.page.is_hidden("#region")  # it is not this picture's
    visit.page.locator("#message").filter(has_text="“photo.jpg” is done.").wait_for()
    assert "other.png" in visit.page.inner_text("#name")
    visit.page.click("#notice-action")
    visit.wait_for_result()
    assert "photo.jpg · 600 × 400" in visit.page.inner_text("#name")
    assert visit.result().shape == (HEIGHT, WIDTH, 3)
    visit.page.keyboard.press("Escape")
    visit.shows("photo.jpg")
    assert visit.mask().max() == 255
    visit.page.keyboard.press("Control+Shift+z")
    visit.shows("other.png")


def test_preview_lies_on_the_picture_within_the_region(visit: Visit) -> None:
    """While it is painted, the hole shows the preview, a frame the region; bar and words say how far it is."""
    visit.open()
    visit.stroke()
    visit.ask(steps=50)
    visit.page.wait_for_selector("#region:not([hidden])")
    region = visit.page.locator("#region").bounding_box()
    picture = visit.box()
    middle = picture["x"] + picture["width"] / 2
    assert region["x"] < middle < region["x"] + region["width"]
    assert region["width"] < picture["width"]
    inside = visit.page.evaluate(
        """() => {
      const canvas = document.getElementById("preview"), { width, height } = canvas;
      const data = canvas.getContext("2d").getImageData(0, 0, width, height).data;
      return [data[3], data[((height >> 1) * width + (width >> 1)) * 4 + 3]];
    }"""
    )
    assert inside == [0, 255]  # nothing but the hole is covered
    words = visit.page.inner_text("#step")
    assert re.fullmatch(r"Step \d+ of \d+(, (a moment|about .+) left)?", words)
    assert 0 < float(visit.page.evaluate("document.getElementById('bar').value")) <= 1
    assert visit.page.evaluate("document.activeElement.id") == "cancel"
    visit.page.keyboard.press("Escape")
    visit.message("Cancelled.")
    assert visit.page.is_hidden("#region")
    assert visit.page.is_enabled("#paint")
    assert visit.page.evaluate("document.activeElement.id") == "surface"


def test_reload_loses_nothing(visit: Visit) -> None:
    """Picture, mask, prompt and settings, a painting under way, and results are there after a reload."""
    page = visit.page
    visit.open()
    visit.stroke()
    visit.set(guidance_scale="5", negative_prompt="haze")
    page.fill("#prompt", "a red rose")
    page.wait_for_timeout(800)
    mask = visit.mask()
    page.reload()
    visit.shows("photo.jpg")
    assert np.abs(visit.mask().astype(int) - mask).mean() < 0.2
    page.wait_for_function("() => document.getElementById('prompt').value === 'a red rose'")
    assert page.input_value("[name=guidance_scale]") == "5"
    assert page.input_value("[name=negative_prompt]") == "haze"
    page.keyboard.press("Control+z")
    assert visit.mask().max() == 0
    page.keyboard.press("Control+y")
    visit.ask(steps=50)
    page.locator("#step").filter(has_text="Step").wait_for()
    page.reload()
    page.locator("#step").filter(has_text="Step").wait_for()
    visit.wait_for_result()
    first = visit.result()
    page.wait_for_timeout(800)
    page.reload()
    visit.wait_for_result()
    assert page.locator("#results li").count() == 1
    assert (visit.result() == first).all()
    page.click("#back")
    assert visit.mask().max() == 255


def test_lost_connection_is_said_and_mended(visit: Visit) -> None:
    """A connection that breaks in the middle is said to be lost, and the result comes once it is back."""
    page = visit.page
    broken = []

    def follow(route: Any) -> None:
        broken.append(route)
        if len(broken) < 3:
            route.abort()
        else:
            route.continue_()

    page.route("**/jobs/*/events", follow)
    visit.open()
    visit.stroke()
    visit.ask()
    page.locator("#step").filter(has_text="Connection lost. Trying again…").wait_for()
    visit.wait_for_result()
    assert len(broken) == 3


def test_full_queue_is_waited_for(visit: Visit) -> None:
    """Where the queue is full the page says so, and sends the same job again by itself; long advice is cut short."""
    page = visit.page
    keys: list[str] = []

    def busy(route: Any) -> None:
        keys.append(route.request.headers["idempotency-key"])
        if len(keys) == 1:
            route.fulfill(**refuse("queue_full", 429, "1"))
        elif len(keys) == 2:
            route.fulfill(**refuse("model_loading", 503, "1"))
        else:
            route.continue_()

    page.route("**/sd-inpaint/jobs", busy)
    visit.open()
    visit.stroke()
    visit.ask()
    page.locator("#step").filter(has_text="Many pictures are waiting on this server. Trying again in 1 s.").wait_for()
    visit.wait_for_result()
    assert len(keys) == 3
    assert len(set(keys)) == 1
    page.unroute("**/sd-inpaint/jobs")
    page.route("**/sd-inpaint/jobs", lambda route: route.fulfill(**refuse("queue_full", 429, "205")))
    page.click("#again")
    page.locator("#step").filter(has_text="Trying again in 20 s.").wait_for()
    page.click("#cancel")
    visit.message("Cancelled.")


def test_upload_is_shown_and_can_be_cancelled(visit: Visit, tmp_path: Path) -> None:
    """On a slow line the page says how much has left, and Cancel ends it."""
    large = tmp_path / "large.jpg"
    Image.effect_noise((1400, 1000), 80).save(large, quality=90)
    visit.open(large)
    visit.stroke()
    session = visit.page.context.new_cdp_session(visit.page)
    session.send("Network.enable")
    slow = {"offline": False, "latency": 50, "downloadThroughput": 100_000, "uploadThroughput": 60_000}
    session.send("Network.emulateNetworkConditions", slow)
    visit.ask()
    visit.page.locator("#step").filter(has_text=re.compile(r"Sending the picture, \d+ %")).wait_for()
    visit.page.click("#cancel")
    visit.message("Cancelled.")
    assert visit.page.is_enabled("#paint")


@pytest.mark.parametrize(
    ("code", "status", "facts", "words"),
    [
        ("content_flagged", 422, {}, "The safety filter held the result back."),
        ("image_too_large", 413, {}, "The picture is too large for this server."),
        ("quota_exceeded", 429, {}, "You have used up your share of this server for now."),
        ("invalid_parameter", 400, {"field": "seed", "minimum": 1, "maximum": 20}, "“Seed” goes from 1 to 20."),
        ("internal", 500, {}, "Something went wrong on the server."),
        ("a code of tomorrow's", 400, {}, "Something went wrong on the server."),
    ],
)  # fmt: skip
def test_refusals_are_in_words_for_people(
    visit: Visit, code: str, status: int, facts: dict[str, Any], words: str
) -> None:
    """What the service refuses is said in words that help, not in HTTP's, and can be tried again."""
    visit.page.route("**/sd-inpaint/jobs", lambda route: route.fulfill(**refuse(code, status, **facts)))
    visit.open()
    visit.stroke()
    visit.ask()
    visit.message(words)
    said = visit.page.inner_text("#message")
    assert not re.search(r"HTTP|X-API-Key|Bearer|sigma|megapixel-steps|_", said)
    visit.page.unroute("**/sd-inpaint/jobs")
    visit.page.click("#notice-action")
    visit.wait_for_result()


def test_speeds_stand_for_their_values(visit: Visit) -> None:
    """A speed shows its steps and guidance, and is sent instead of them; what one changes beside it is sent too."""
    info = visit.page.request.get(f"{visit.url}/sd-inpaint/info").json()
    visit.open()
    visit.stroke()
    visit.page.click("#settings-toggle")
    visit.page.click("#quality button >> text=Fast")
    fast = info["speeds"]["fast"]
    assert float(visit.page.input_value("[name=num_inference_steps]")) == fast["num_inference_steps"]
    assert float(visit.page.input_value("[name=guidance_scale]")) == fast["guidance_scale"]
    visit.page.fill("[name=guidance_scale]", "3")
    visit.page.fill("#prompt", "a red rose")
    visit.page.click("#paint")
    visit.wait_for_result()
    (form,) = visit.sent()
    assert {name: form.get(name) for name in ("speed", "num_inference_steps", "guidance_scale")} == {
        "speed": "fast",
        "num_inference_steps": None,
        "guidance_scale": "3",
    }


def test_values_out_of_bounds_are_found_before_sending(visit: Visit) -> None:
    """A value beyond its bounds is named with them, and its field is shown, folded away or not."""
    visit.open()
    visit.stroke()
    visit.ask(mask_grow="999")
    visit.message("“Grow the mask” goes from -256 to 256.")
    assert visit.page.evaluate("document.activeElement.name") == "mask_grow"
    assert visit.page.is_visible("[name=mask_grow]")
    visit.page.fill("[name=mask_grow]", "2")
    assert visit.page.inner_text("#message") == ""
    visit.ask(strength="0.1")
    visit.message("Strength and steps are so low together that no step is left.")
