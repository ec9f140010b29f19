"""A contact sheet: one row for each prompt, one column for each way of drawing it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw, ImageFont

CELL = 128
GAP = 8
LABEL = 220


def sheet(rows: Sequence[str], columns: Mapping[str, Sequence[Image.Image]]) -> Image.Image:
    """Pictures side by side, scaled to one size; `columns` holds one picture for each row."""
    font = ImageFont.load_default(14)
    width = LABEL + len(columns) * (CELL + GAP) + GAP
    height = 32 + len(rows) * (CELL + GAP)
    page = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(page)
    for place, (title, pictures) in enumerate(columns.items()):
        left = LABEL + place * (CELL + GAP)
        pen.text((left, 8), title, fill="black", font=font)
        for row, picture in enumerate(pictures):
            page.paste(
                picture.resize((CELL, CELL), Image.Resampling.LANCZOS), (left, 32 + row * (CELL + GAP))
            )
    for row, text in enumerate(rows):
        pen.multiline_text(
            (GAP, 32 + row * (CELL + GAP) + CELL // 3), _wrapped(text, pen, font), "black", font
        )
    return page


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
