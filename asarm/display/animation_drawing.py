"""The frames of an animation drawn: monospaced text, boxes and a legend; GIF as their form."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path

import matplotlib
from PIL import Image, ImageColor, ImageDraw, ImageFont

from asarm.display.animation import ACCEPTED, DRAFTED, DRAWN, REPLACED, Film, Frame, Mark, shown
from asarm.display.drawing import INK

Place = tuple[int, int]  # row and column of a character

PAPER, BLANK, FAINT_INK = "#FFFFFF", "#E8E8E8", "#666666"
# Okabe & Ito's colours, distinct with every kind of colour vision
COLORS = {DRAFTED: "#0072B2", ACCEPTED: "#009E73", REPLACED: "#D55E00", DRAWN: "#CC79A7"}
TINTS = {DRAFTED: "#D3E6F3"}
LEGEND = {
    DRAFTED: "drafted",
    ACCEPTED: "draft accepted",
    REPLACED: "draft replaced",
    DRAWN: "drawn without a draft",
}
SHADES = 8  # from what is under ink to the ink, for smooth edges
SCALE = 2  # everything is drawn so many times as large, and then reduced
WIDTH, MARGIN = 800, 28  # pixels
HEADING, TOP, BOTTOM, LEGEND_BOTTOM = 22, 64, 48, 36
SMALL = 14  # letters of heading and legend
SIZES = (17, 15, 13)  # of the text's letters: the largest that makes no more than so many rows
MAX_ROWS = 14
FIRST, LAST = 1500, 4000  # milliseconds that the first and the last frame are held
WHOLE, SLOWEST, FASTEST = 20_000, 500, 60  # all frames together, and one


@dataclass(frozen=True)
class Page:
    """Where the characters of a text are.

    Attributes:
        size: the size of the letters, in pixels.
        places: the places of the characters of each piece.
        rows: the number of rows.
    """

    size: int
    places: list[list[Place]]
    rows: int


def page_of(pieces: Sequence[str]) -> Page:
    """Lay the text out as wide as the picture, in letters as large as its length allows."""
    for size in SIZES:
        places = lay_out(pieces, int((WIDTH - 2 * MARGIN) / advance(size)))
        rows = 1 + max((row for own in places for row, _ in own), default=0)
        if rows <= MAX_ROWS:
            break
    return Page(size, places, rows)


def lay_out(pieces: Sequence[str], columns: int) -> list[list[Place]]:
    """Find a place for every character of every piece; whole words go to the next line together.

    Blanks at the end of a line are beyond its last column, and a line end takes one place.
    """
    found: list[Place] = []
    row = column = 0
    for run in re.findall(r"\n|[^\S\n]+|\S+", "".join(pieces)):
        if not run.isspace() and column > 0 and column + len(run) > columns:
            row, column = row + 1, 0
        for character in run:
            if not run.isspace() and column >= columns:  # a word longer than a line
                row, column = row + 1, 0
            found.append((row, column))
            row, column = (row + 1, 0) if character == "\n" else (row, min(column + 1, columns))
    rest = iter(found)
    return [[next(rest) for _ in piece] for piece in pieces]


def gif(film: Film) -> bytes:
    """Make the animation as a file's content; it begins anew after its end."""
    page, palette = page_of(film.pieces), _palette()
    first, *others = [
        draw(film, page, frame).quantize(palette=palette, dither=Image.Dither.NONE)
        for frame in film.frames
    ]
    each = max(FASTEST, min(SLOWEST, WHOLE // len(film.frames)))
    buffer = BytesIO()
    first.save(
        buffer,
        format="GIF",
        save_all=True,
        append_images=others,
        duration=[FIRST, *[each] * (len(others) - 1), LAST],
        loop=0,
        optimize=True,
    )
    return buffer.getvalue()


def draw(film: Film, page: Page, frame: Frame) -> Image.Image:
    """Draw one frame."""
    pen = Pen(page)
    pen.line(HEADING, film.title, bold=True)
    counter = f"calls {frame.calls:>3}   tokens {frame.tokens:>3} of {len(film.targets)}"
    pen.line(HEADING, counter, left=WIDTH - MARGIN - len(counter) * advance(SMALL))
    for position, (piece, places) in enumerate(zip(film.pieces, page.places, strict=True)):
        if position in film.targets and places:
            _draw_blank(pen, film, piece, places, frame.marks.get(position))
        else:
            pen.write(piece, places, INK)
    _draw_legend(pen, film)
    return pen.image.reduce(SCALE)


def _draw_blank(
    pen: Pen, film: Film, piece: str, places: Sequence[Place], mark: Mark | None
) -> None:
    """Draw a blank, and the token in it, if there is one."""
    pairs = zip(piece, places, strict=True)
    inner = [place for character, place in pairs if not character.isspace()] or places[:1]
    if mark is None:
        pen.boxes(inner, BLANK)
        return
    color, is_draft = COLORS[mark.kind], mark.kind == DRAFTED
    if is_draft or mark.is_new:
        pen.boxes(inner, TINTS[mark.kind] if is_draft else color)
    text = shown(film.drafts[mark.token] if is_draft else piece, len(inner))
    pen.write(text, inner, PAPER if mark.is_new and not is_draft else color)


def _draw_legend(pen: Pen, film: Film) -> None:
    """Draw what the colours mean that are seen in the film."""
    seen = {mark.kind for frame in film.frames for mark in frame.marks.values()}
    top, left = pen.height - LEGEND_BOTTOM, float(MARGIN)
    for kind, meaning in LEGEND.items():
        if kind in seen:
            pen.swatch(top, left, kind)
            pen.line(top, meaning, left=left + 22)
            left += 22 + (len(meaning) + 2) * advance(SMALL)


class Pen:
    """Draws on an empty picture, in pixels of the finished one."""

    def __init__(self, page: Page):
        self.page = page
        self.height = TOP + page.rows * pitch(page.size) + BOTTOM
        self.image = Image.new("RGB", (SCALE * WIDTH, SCALE * self.height), PAPER)
        self._draw = ImageDraw.Draw(self.image)

    def line(self, top: float, text: str, *, left: float = MARGIN, bold: bool = False) -> None:
        """Write a line of the heading or the legend."""
        at = SCALE * left, SCALE * top
        self._draw.text(at, text, FAINT_INK if not bold else INK, font(SMALL, bold=bold))

    def swatch(self, top: float, left: float, kind: str) -> None:
        """Draw the box of a kind of token in the legend."""
        fill = TINTS[kind] if kind == DRAFTED else COLORS[kind]
        self._box(left, top + 1, left + 14, top + 15, fill)

    def write(self, text: str, places: Sequence[Place], color: str) -> None:
        """Write characters at their places; what does not show is left out."""
        for character, (row, column) in zip(text, places, strict=False):
            if character.isprintable() and not character.isspace():
                self._draw.text(self._at(row, column), character, color, font(self.page.size))

    def boxes(self, places: Sequence[Place], fill: str) -> None:
        """Draw a box around the places of each row."""
        for row in dict.fromkeys(row for row, _ in places):
            columns = [column for r, column in places if r == row]
            left, top = (v / SCALE for v in self._at(row, min(columns)))
            right = left + (max(columns) + 1 - min(columns)) * advance(self.page.size)
            self._box(left - 0.5, top - 2, right - 1, top + 1.22 * self.page.size, fill)

    def _at(self, row: int, column: int) -> tuple[float, float]:
        size = self.page.size
        return SCALE * (MARGIN + column * advance(size)), SCALE * (TOP + row * pitch(size))

    def _box(self, left: float, top: float, right: float, bottom: float, fill: str) -> None:
        corners = [SCALE * v for v in (left, top, right, bottom)]
        self._draw.rounded_rectangle(corners, SCALE * 3, fill)


def pitch(size: int) -> int:
    """Return the pixels from one line to the next."""
    return round(1.75 * size)


@lru_cache
def font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Return the monospaced letters that come with matplotlib: every machine draws the same."""
    name = "DejaVuSansMono-Bold.ttf" if bold else "DejaVuSansMono.ttf"
    path = Path(matplotlib.get_data_path(), "fonts", "ttf", name)
    return ImageFont.truetype(str(path), SCALE * size)


@lru_cache
def advance(size: int) -> float:
    """Return the pixels from one character to the next."""
    return font(size).getlength("m") / SCALE


def _palette() -> Image.Image:
    """Return all colours that there are, one picture for all frames: files stay small."""
    pairs = [(ink, PAPER) for ink in (INK, FAINT_INK, *COLORS.values())]
    pairs += [(COLORS[kind], tint) for kind, tint in TINTS.items()]
    plain = [ImageColor.getrgb(color) for color in (PAPER, BLANK, *TINTS.values())]
    mixed = [color for ink, paper in pairs for color in _shades(ink, paper)]
    image = Image.new("P", (1, 1))
    image.putpalette([value for color in dict.fromkeys([*plain, *mixed]) for value in color])
    return image


def _shades(ink: str, paper: str) -> Iterator[tuple[int, ...]]:
    """Return the shades from paper to ink: the edges of letters are neither."""
    ends = ImageColor.getrgb(paper), ImageColor.getrgb(ink)
    for step in range(SHADES + 1):
        yield tuple(round(a + (b - a) * step / SHADES) for a, b in zip(*ends, strict=True))
