"""Texts of the page, as they are served."""

import pytest

from sd_inpaint.http.wire.minified import minified


def test_a_module_keeps_what_it_says() -> None:
    """Comments, blanks and spent constants go; strings, templates within templates and private names stay."""
    script = """// A note.
const MOST = 8; // of them
const NAMED = "a  b";
export class Thing {
	#name = NAMED;
	words(count) {
		return `${count > MOST ? `, more  than ${MOST}` : ""}. ${this.#name}`;
	}
}
"""
    short = minified(script, ".js")
    assert "note" not in short
    assert "of them" not in short
    assert "MOST" not in short
    assert "`, more  than ${8}`" in short or "`, more  than 8`" in short
    assert "`a  b`" in short or '"a  b"' in short
    assert "#name" in short


@pytest.mark.parametrize(
    ("numbers", "left"),
    [
        ("const FIRST = 1, SECOND = 2;", ""),
        ("const FIRST = 1, KEPT = [3], SECOND = 2;", "const KEPT=[3];"),
        ("const FIRST = 1; const SECOND = 2; let kept = 3;", "let kept=3;"),
    ],
)
def test_spent_numbers_go_wherever_they_stand(numbers: str, left: str) -> None:
    """Whether a constant stands alone, first, last or in between, what is left of its declaration is one."""
    script = f"{numbers}\nexport const sum = (of) => of + FIRST * SECOND;"
    assert minified(script, ".js") == f"{left}export const sum=of=>of+2;"


def test_style_sheets_and_pages() -> None:
    """Style sheets lose comments and blanks, pages the ends of elements that HTML lets one leave out."""
    assert minified("/* why */ p { color : red ; }", ".css") == "p{color:red}"
    assert (
        minified('<!doctype html>\n<ul>\n\t<li class="one">a</li>\n</ul>', ".html")
        == "<!doctype html><ul><li class=one>a</ul>"
    )
