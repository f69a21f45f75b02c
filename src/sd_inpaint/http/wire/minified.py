"""The page's texts in fewer bytes, made as they are read: the checkout keeps what one reads, and needs no build."""

import re

import minify_html

_WRAPPINGS = {".js": ("<script type=module>", "</script>"), ".css": ("<style>", "</style>"), ".html": ("", "")}
"""What a text has around it in HTML, which is what the minifier reads."""

_COMMENTS = re.compile(r"^\s*//.*\n|[ \t]+// .*$", re.MULTILINE)
"""Of scripts, where the minifier leaves them."""

_HINTS = "/* @__PURE__ */ "
"""What it puts into scripts for another minifier."""

_NUMBERS = re.compile(r"\b([A-Z][A-Z_]+)=([\d.e]+)(?=[,;])")
"""Constants that are numbers."""


def minified(text: str, suffix: str) -> str:
    """Returns a text without comments and blanks, every name in it as it is.

    Args:
        text: A module whose comments stand on lines of their own or behind code, a style sheet, or a page.
        suffix: Which of them: ``.js``, ``.css`` or ``.html``.
    """
    before, after = _WRAPPINGS[suffix]
    if suffix == ".js":
        text = _COMMENTS.sub("", text)
    short = minify_html.minify(f"{before}{text}{after}", minify_js=True, minify_css=True)
    short = short.removeprefix(before).removesuffix(after)
    return _without_spent_numbers(short.replace(_HINTS, "")) if suffix == ".js" else short


def _without_spent_numbers(script: str) -> str:
    # The minifier has put them where they were used, and left them where they were.
    for name, value in _NUMBERS.findall(script):
        if len(re.findall(rf"\b{name}\b", script)) == 1:
            for declared in (f"const {name}={value};", f",{name}={value}", f"{name}={value},"):
                script = script.replace(declared, "")
    return script
