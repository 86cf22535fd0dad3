"""The contrast of every pair of colours that meet, in both schemes, computed from the style sheet (WCAG 2.2, AA)."""

import re
from pathlib import Path
from typing import Final

import pytest

import cht_rapidpro.page

CSS: Final = (Path(cht_rapidpro.page.__file__).parent / "page.css").read_text()
SCRIPT: Final = (Path(cht_rapidpro.page.__file__).parent / "page.js").read_text()
_COLOUR: Final = re.compile(r"--([a-z0-9-]+): (#[0-9a-f]{6});")
_DARK: Final = CSS.index("@media (prefers-color-scheme: dark)")
_RULES: Final = CSS.index("\n* {")

SCHEMES: Final = {"light": dict(_COLOUR.findall(CSS[:_DARK])), "dark": dict(_COLOUR.findall(CSS[_DARK:_RULES]))}
TEXTS: Final = [
    *((text, ground) for text in ("text", "muted") for ground in ("page", "card")),
    *(
        (text, f"{tone}-ground")
        for tone in ("ok", "warn", "bad")
        for text in (tone, "text", "muted")
        if text != "muted"
    ),
]
SHAPES: Final = [
    *((shape, "card") for shape in ("strong-line", "ok", "warn", "bad", "series-1", "series-2", "series-3", "focus")),
    ("focus", "page"),
    ("strong-line", "page"),
]


def luminance(colour: str) -> float:
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    bright, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def test_black_on_white_is_what_the_standard_says() -> None:
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(("text", "ground"), TEXTS)
def test_texts_can_be_read(scheme: str, text: str, ground: str) -> None:
    colours = SCHEMES[scheme]
    assert contrast(colours[text], colours[ground]) >= 4.5


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(("shape", "ground"), SHAPES)
def test_lines_and_borders_that_mean_something_can_be_seen(scheme: str, shape: str, ground: str) -> None:
    colours = SCHEMES[scheme]
    assert contrast(colours[shape], colours[ground]) >= 3


def test_every_colour_is_one_of_them_and_both_schemes_have_all() -> None:
    assert SCHEMES["light"].keys() == SCHEMES["dark"].keys()
    assert set(re.findall(r"var\(--([a-z0-9-]+)\)", CSS)) == SCHEMES["light"].keys()
    assert "#" not in re.sub(r"#[a-z]+ ?[a-z:{.]", "", CSS[_RULES:])
    assert {name for pair in (*TEXTS, *SHAPES) for name in pair} == SCHEMES["light"].keys() - {"line"}


def test_the_files_are_small_and_load_nothing_from_other_hosts() -> None:
    assert len(CSS) + len(SCRIPT) < 10_000
    assert "//" not in re.sub(r"^//.*$|(?<=;) //.*$", "", CSS + SCRIPT, flags=re.MULTILINE)
