"""A contact sheet: one row for each prompt, one column for each way of drawing it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw, ImageFont

CELL = 128
GAP = 8
LABEL = 220
HEAD = 32


def sheet(rows: Sequence[str], columns: Mapping[str, Sequence[Image.Image]]) -> Image.Image:
    """Pictures side by side, scaled to one size; `columns` holds one picture for each row."""
    font = ImageFont.load_default(14)
    width = LABEL + len(columns) * (CELL + GAP) + GAP
    height = HEAD + len(rows) * (CELL + GAP)
    page = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(page)
    for place, (title, pictures) in enumerate(columns.items()):
        pen.text((_corner(place, 0)[0], GAP), title, fill="black", font=font)
        for row, picture in enumerate(pictures):
            page.paste(picture.resize((CELL, CELL), Image.Resampling.LANCZOS), _corner(place, row))
    for row, text in enumerate(rows):
        pen.multiline_text((GAP, _corner(0, row)[1] + CELL // 3), _wrapped(text, pen, font), "black", font)
    return page


def column(page: Image.Image, place: int, rows: int) -> list[Image.Image]:
    """The pictures of a sheet's column, as they are shown on it."""
    corners = [_corner(place, row) for row in range(rows)]
    return [page.crop((left, top, left + CELL, top + CELL)) for left, top in corners]


def _corner(place: int, row: int) -> tuple[int, int]:
    """Where a picture's upper left corner is."""
    return LABEL + place * (CELL + GAP), HEAD + row * (CELL + GAP)


def _wrapped(text: str, pen: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """The text in lines that fit the label's column."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if pen.textlength(longer, font=font) <= LABEL - 2 * GAP:
            lines[-1] = longer
        else:
            lines.append(word)
    return "\n".join(lines)
