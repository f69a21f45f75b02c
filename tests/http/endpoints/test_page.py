"""The files of the page at ``/``: what is served, and how much it is. What people do with it is in tests/http/page/."""

import gzip
import re
from pathlib import Path

import pytest

import sd_inpaint.http.endpoints.page
from sd_inpaint.http.endpoints.page import FILES
from tests.support.edge import INPAINT, App, check_shape, form, make_app

STATIC = Path(sd_inpaint.http.endpoints.page.__file__).parents[1] / "static"

TYPES = {
    "html": "text/html",
    "css": "text/css",
    "js": "text/javascript",
    "svg": "image/svg+xml",
    "jpg": "image/jpeg",
    "png": "image/png",
    "md": "text/markdown",
}

MAX_BYTES = 100_000
"""All of the page without its samples, as it is served to those who unpack nothing."""

MAX_PACKED_BYTES = 41_500
"""The same as gzip: a fifth of a second at 1.6 Mbit/s."""

MAX_SAMPLE_BYTES = 60_000

TEXTS = [name for name in FILES.values() if name.endswith((".html", ".css", ".js", "favicon.svg"))]
KEYWORDS = {"let", "void"}
"""What the minifier may write where a module has something longer."""

MINIFIED = [name for name in TEXTS if not name.endswith(".svg")]


@pytest.mark.parametrize("path", FILES)
def test_every_file_is_served_and_loads_nothing_from_elsewhere(app: App, path: str) -> None:
    """Each file is there, as what it is, and may load nothing from elsewhere."""
    response = app.client.get(path)
    assert response.status_code == 200
    if FILES[path] not in MINIFIED:
        assert response.content == (STATIC / FILES[path]).read_bytes()
    assert response.headers["content-type"].partition(";")[0] == TYPES[FILES[path].rpartition(".")[2]]
    assert response.headers["content-security-policy"].startswith("default-src 'self';")
    assert app.client.head(path).status_code == 200
    check_shape(app.client.post(path), 405, "method_not_allowed")


def test_modules_are_named_in_the_page(app: App) -> None:
    """The page names every module, so that a browser asks for all of them at once."""
    text = app.client.get("/").text
    modules = {path[1:] for path in FILES if path.endswith(".js")}
    assert set(re.findall(r"<link href=(\S+) rel=modulepreload>", text)) == modules


def test_texts_are_packed_for_those_who_unpack(app: App) -> None:
    """Texts are sent as gzip to clients that accept it, and as they are to others; pictures never."""
    for path, accepts in (("/page/page.js", True), ("/page/page.js", False), ("/page/samples/cat.jpg", True)):
        response = app.client.get(path, headers={"Accept-Encoding": "gzip" if accepts else "identity"})
        is_packed = accepts and path.endswith(".js")
        assert response.headers.get("content-encoding") == ("gzip" if is_packed else None)
        assert len(response.content) > 10_000


def test_weight(app: App) -> None:
    """The page stays light, with and without gzip, and so does each sample."""
    paths = [path for path, name in FILES.items() if name in TEXTS]
    contents = [app.client.get(path, headers={"Accept-Encoding": "identity"}).content for path in paths]
    assert sum(map(len, contents)) < MAX_BYTES
    assert sum(len(gzip.compress(content, mtime=0)) for content in contents) < MAX_PACKED_BYTES
    assert all(file.stat().st_size < MAX_SAMPLE_BYTES for file in (STATIC / "samples").iterdir())


@pytest.mark.parametrize("name", [name for name in MINIFIED if name.endswith(".js")])
def test_what_is_served_is_what_one_reads(app: App, name: str) -> None:
    """A served module has the names of its source and no other, so that an error in a browser leads to its line."""
    source = (STATIC / name).read_text("utf-8")
    served = app.client.get(f"/page/{name}").text
    assert len(served) < len(source)
    names, known = (set(re.findall(r"[a-z_]{3,}", text, re.IGNORECASE)) for text in (served, source))
    assert names - known <= KEYWORDS
    assert re.findall(r'from"(.+?)"', served) == re.findall(r' from "(.+?)"', source)


def test_comments_are_told_from_strings() -> None:
    """No module has within a string what looks like a comment, since that would be cut off."""
    for name in TEXTS:
        for line in (STATIC / name).read_text("utf-8").splitlines() if name.endswith(".js") else ():
            code, slashes, _ = line.partition(" // ")
            assert not slashes or all(code.count(quote) % 2 == 0 for quote in "\"'`"), f"{name}: {line}"


def test_nothing_from_elsewhere() -> None:
    """No file names another host, and each file that one of them names is served."""
    for name in TEXTS:
        text = (STATIC / name).read_text("utf-8").replace("http://www.w3.org/", "")  # names of SVG, and no addresses
        assert not re.search(r"(https?:)?//[a-z0-9.-]+\.[a-z]{2,}", text), name
        for address in re.findall(r'(?:src|href)="([\w./]+)"', text):
            assert f"/{address}" in FILES or address == "docs.json"
        for module in re.findall(r'from "\./([\w.]+)"', text):
            assert f"/page/{module}" in FILES


def test_samples_say_where_they_are_from() -> None:
    """Each sample's picture stands with its source and its licence in the folder's README."""
    text = (STATIC / "samples" / "README.md").read_text("utf-8")
    for file in (STATIC / "samples").glob("*.jpg"):
        assert re.search(rf"^\| `{file.name}` \| .+, by .+ \| (CC0|\[CC-BY-4\.0\]\(.+) \|$", text, re.MULTILINE)


def test_open_without_a_key() -> None:
    """Where keys are asked for, the page is there to ask for one; what it calls is not open for that."""
    with make_app(api_keys="secret-key") as app:
        assert all(app.client.get(path).status_code == 200 for path in FILES)
        check_shape(app.client.get("/sd-inpaint/info"), 401, "unauthorized")
        check_shape(app.client.post(INPAINT, **form()), 401, "unauthorized")
