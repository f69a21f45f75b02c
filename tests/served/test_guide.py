"""Every example of the API guide, as it is written there but for host and file names, against the served model."""

import asyncio
import contextlib
import io
import runpy
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bentoml
import httpx
import numpy as np
import playwright
import pytest
from PIL import Image, ImageDraw

from tests.support.pictures import opened
from tests.support.served import Server

pytestmark = pytest.mark.contract

GUIDE_URL = "http://localhost:8000"
SIZE = (512, 512)
NODE = Path(playwright.__file__).parent / "driver" / "node"

CURL = r"""
curl -X POST "http://localhost:8000/sd-inpaint/inpaint" \
  -F "image=@input.jpg" \
  -F "mask=@mask.png" \
  -F "prompt=a beautiful red rose" \
  -F "negative_prompt=blurry, low quality" \
  -F "num_inference_steps=50" \
  -F "guidance_scale=7.5" \
  -F "seed=42" \
  --output result.png
"""

PYTHON = """
import requests

url = "http://localhost:8000/sd-inpaint/inpaint"

with open("input.jpg", "rb") as img_file, open("mask.png", "rb") as mask_file:
    files = {
        "image": img_file,
        "mask": mask_file,
    }
    data = {
        "prompt": "a beautiful red rose",
        "negative_prompt": "blurry, low quality",
        "num_inference_steps": 50,
        "guidance_scale": 7.5,
        "seed": 42,
    }
    
    response = requests.post(url, files=files, data=data)
    
    if response.status_code == 200:
        with open("result.png", "wb") as f:
            f.write(response.content)
        print("Inpainting successful!")
    else:
        print(f"Error: {response.json()}")
"""  # noqa: W293  # as the guide has it

JAVASCRIPT = """
const formData = new FormData();
formData.append('image', imageFile);
formData.append('mask', maskFile);
formData.append('prompt', 'a beautiful red rose');
formData.append('negative_prompt', 'blurry, low quality');
formData.append('num_inference_steps', '50');
formData.append('guidance_scale', '7.5');
formData.append('seed', '42');

const response = await fetch('http://localhost:8000/sd-inpaint/inpaint', {
  method: 'POST',
  body: formData,
});

if (response.ok) {
  const blob = await response.blob();
  const url = URL.createObjectURL(blob);
  // Use the URL to display or download the image
}
"""

# What a page would have: files that somebody chose, and somewhere to put the picture.
JAVASCRIPT_BEFORE = """
import { readFileSync, writeFileSync } from 'node:fs';
const imageFile = new File([readFileSync('input.jpg')], 'input.jpg', { type: 'image/jpeg' });
const maskFile = new Blob([readFileSync('mask.png')]);
"""

MASK_BY_PIL = """
from PIL import Image, ImageDraw
import numpy as np

# Create a blank white mask (inpaint everything)
mask = Image.new('RGB', (512, 512), color='white')

# Or create a specific region mask
mask = Image.new('RGB', (512, 512), color='black')
draw = ImageDraw.Draw(mask)

# Draw white rectangle (area to inpaint)
draw.rectangle([100, 100, 400, 400], fill='white')

mask.save('mask.png')
"""

MASK_BY_OPENCV = """
import cv2
import numpy as np

# Load image
image = cv2.imread('input.jpg')
height, width = image.shape[:2]

# Create black mask
mask = np.zeros((height, width, 3), dtype=np.uint8)

# Define region to inpaint (white)
cv2.rectangle(mask, (100, 100), (400, 400), (255, 255, 255), -1)

# Save mask
cv2.imwrite('mask.png', mask)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with ``input.jpg`` and a small ``mask.png``, to be in."""
    rows, columns = np.mgrid[0 : SIZE[1], 0 : SIZE[0]]
    pixels = np.stack([rows // 2, columns // 2, (rows + columns) // 4], axis=-1).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "input.jpg", quality=90)
    mask = Image.new("RGB", SIZE, "black")
    ImageDraw.Draw(mask).rectangle([200, 200, 280, 280], fill="white")
    mask.save(tmp_path / "mask.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def check_result(folder: Path) -> None:
    """Asserts that ``result.png`` is the input, but for what the mask has in white."""
    before, after = opened((folder / "input.jpg").read_bytes()), opened((folder / "result.png").read_bytes())
    mask = np.asarray(Image.open(folder / "mask.png").convert("L"))
    assert after.shape == before.shape
    assert (after[mask == 0] == before[mask == 0]).all()
    assert (after[mask == 255] != before[mask == 255]).any()


def run_python(code: str, folder: Path) -> str:
    """Runs a script of the guide; returns what it prints."""
    script = folder / "script.py"
    script.write_text(code, encoding="utf-8")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        runpy.run_path(str(script))
    return printed.getvalue()


def test_curl_command_writes_a_png(server: Server, folder: Path) -> None:
    """The curl command writes a PNG."""
    command = CURL.replace(GUIDE_URL, server.url)
    subprocess.run(["bash", "-euc", command], cwd=folder, check=True, capture_output=True, timeout=300)
    check_result(folder)


def test_script_with_requests_succeeds(server: Server, folder: Path) -> None:
    """The script with requests succeeds."""
    assert run_python(PYTHON.replace(GUIDE_URL, server.url), folder) == "Inpainting successful!\n"
    check_result(folder)


def test_python_shows_errors(server: Server, folder: Path) -> None:
    """The same script prints the error where the request is wrong: a body that is JSON and an object."""
    (folder / "mask.png").write_bytes(b"no picture")
    printed = run_python(PYTHON.replace(GUIDE_URL, server.url), folder)
    assert printed.startswith("Error: {'error': ")
    assert "'code': 'invalid_mask'" in printed


def test_fetch_code_succeeds_in_node(server: Server, folder: Path) -> None:
    """The fetch code succeeds in Node, whose fetch and FormData are a browser's: in the one that Playwright runs on."""
    example = JAVASCRIPT.replace(GUIDE_URL, server.url)
    after = "writeFileSync('result.png', Buffer.from(await (await fetch(shownUrl)).arrayBuffer()));\n"
    # The picture is read back through the URL that the example made of it, as an <img> would.
    example = example.replace("  // Use the URL", "  globalThis.shownUrl = url;\n  // Use the URL")
    (folder / "example.mjs").write_text(JAVASCRIPT_BEFORE + example + after, encoding="utf-8")
    done = subprocess.run([NODE, "example.mjs"], cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    check_result(folder)


def test_health_is_what_the_guide_shows(server: Server) -> None:
    """Health is what the guide shows, with the name of the model that is served."""
    response = httpx.get(server.url + "/sd-inpaint/health")
    assert response.status_code == 200
    assert response.json() == {"status": "healthy", "service": "stable-diffusion-inpaint", "model": "demo"}


@pytest.mark.parametrize("script", [MASK_BY_PIL, MASK_BY_OPENCV], ids=["PIL", "OpenCV"])
def test_masks_from_scripts(server: Server, folder: Path, script: str) -> None:
    """Masks from the guide's scripts, 8-bit RGB, are taken as they are."""
    run_python(script, folder)
    few_steps = CURL.replace(GUIDE_URL, server.url).replace("num_inference_steps=50", "num_inference_steps=2")
    subprocess.run(["bash", "-euc", few_steps], cwd=folder, check=True, capture_output=True, timeout=300)
    check_result(folder)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_masks_from_a_paint_program(server: Server, folder: Path, mode: str) -> None:
    """Brush strokes have soft edges; a layer that was not flattened is white on transparent."""
    stroke = Image.new("L", (SIZE[0] * 2, SIZE[1] * 2), 0)
    ImageDraw.Draw(stroke).line([(300, 300), (500, 640), (700, 400)], fill=255, width=90, joint="curve")
    stroke = stroke.resize(SIZE, Image.Resampling.LANCZOS)
    if mode == "RGB":
        mask = stroke.convert("RGB")
    else:
        mask = Image.new(mode, SIZE, "white")
        mask.putalpha(stroke)
    mask.save(folder / "mask.png")
    few_steps = CURL.replace(GUIDE_URL, server.url).replace("num_inference_steps=50", "num_inference_steps=2")
    subprocess.run(["bash", "-euc", few_steps], cwd=folder, check=True, capture_output=True, timeout=300)
    before, after = opened((folder / "input.jpg").read_bytes()), opened((folder / "result.png").read_bytes())
    grey = np.asarray(stroke)
    assert (after[grey == 0] == before[grey == 0]).all()
    assert (after[grey == 255] != before[grey == 255]).any()


@contextlib.contextmanager
def sync_client(server: Server) -> Iterator[Any]:
    """BentoML's client; the folder that it leaves behind is removed."""
    with bentoml.SyncHTTPClient(server.url, timeout=300) as client:
        yield client
    client._temp_dir.cleanup()


PROMPTS = ["a beautiful red rose", "1984", "true", "null", '"quoted"', '{"a":1}', "🌹 é"]


def posted(server: Server, prompt: str) -> np.ndarray:
    """Returns what curl or requests would get for a prompt."""
    with open("input.jpg", "rb") as image, open("mask.png", "rb") as mask:
        data = {"prompt": prompt, "num_inference_steps": "2", "seed": "7"}
        response = httpx.post(
            server.url + "/sd-inpaint/inpaint", files={"image": image, "mask": mask}, data=data, timeout=300
        )
    assert response.status_code == 200
    return opened(response.content)


@pytest.mark.parametrize("prompt", PROMPTS)
def test_bentoml_sync_client(server: Server, prompt: str) -> None:
    """BentoML's client gets a PIL picture, the same as anybody else for the same request, whatever the prompt."""
    with sync_client(server) as client:
        picture = client.inpaint(
            image=Path("input.jpg"), mask=Path("mask.png"), prompt=prompt, num_inference_steps=2, seed=7
        )
        assert isinstance(picture, Image.Image)
        assert picture.format == "PNG"
        assert (np.asarray(picture) == posted(server, prompt)).all()
        picture.close()


def test_bentoml_sync_client_health_and_errors(server: Server) -> None:
    """client.health() has the guide's keys; an error carries this service's sentence."""
    with sync_client(server) as client:
        assert client.health() == {"status": "healthy", "service": "stable-diffusion-inpaint", "model": "demo"}
        with pytest.raises(bentoml.exceptions.InvalidArgument, match="from 1 to 150"):
            client.inpaint(image=Path("input.jpg"), mask=Path("mask.png"), prompt="x", num_inference_steps=151)


def test_bentoml_async_client(server: Server) -> None:
    """The asynchronous client works alike, also with every parameter and with None for unset."""

    async def call() -> np.ndarray:
        async with bentoml.AsyncHTTPClient(server.url, timeout=300) as client:
            assert (await client.health())["status"] == "healthy"
            picture = await client.inpaint(
                image=Path("input.jpg"),
                mask=Path("mask.png"),
                prompt="a beautiful red rose",
                negative_prompt="",
                num_inference_steps=2,
                guidance_scale=7.5,
                seed=7,
                strength=1.0,
                region="auto",
                padding=None,
                mask_invert=False,
            )
            client._temp_dir.cleanup()
            with picture:
                return np.asarray(picture)

    assert (asyncio.run(call()) == posted(server, "a beautiful red rose")).all()
