"""Tables of captions from anywhere: what a spreadsheet or an editor does to a file, and very many rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from lorac import caption_tables
from lorac.caption_tables import Row
from runtime.errors import InputError


@pytest.mark.parametrize(
    "caption", ["=1+1", "=cmd|' /C calc'!A0", "+SUM(A1:A9)", "-2", "@x", "{{ 7 * 7 }}", "%s%n"]
)
def test_a_formula_is_a_caption_like_any_other(tmp_path: Path, caption: str) -> None:
    table = tmp_path / "metadata.csv"
    table.write_text(f'image,prompt\n0000.png,"{caption}"\n', encoding="utf-8")

    rows, problems = caption_tables.read(table)

    assert [row.caption for row in rows] == [caption] and not problems


@pytest.mark.parametrize(
    ("encoding", "byte"),
    [("utf-16", "byte 0 is 0xff"), ("latin-1", "byte 24 is 0xe9"), ("cp932", "byte 24 is 0x83")],
)
def test_another_encoding_is_refused_with_its_first_byte(tmp_path: Path, encoding: str, byte: str) -> None:
    table = tmp_path / "metadata.csv"
    caption = "カフェ" if encoding == "cp932" else "é"
    table.write_bytes(f"image,prompt\n0000.png,ab{caption}\n".encode(encoding))

    with pytest.raises(InputError) as refused:
        caption_tables.read(table)

    assert refused.value.lines() == [f"error: {table}: is not UTF-8 ({byte})", "hint: save it as UTF-8"]


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    table = tmp_path / "metadata.csv"
    table.write_text("image,prompt\r\n0000.png,a\r\n", encoding="utf-8-sig", newline="")

    assert caption_tables.read(table)[0] == [Row("0000.png", "a", f"{table}:2")]
