"""JSON without surprises, written in one form."""

from __future__ import annotations

import json
import locale
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.errors import InputError, PlanError
from runtime.safeio import strict_json
from tests.runtime.safeio.refusals import refusal

numbers = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(exclude_categories=["Cs"]))
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner) | st.dictionaries(texts, inner),
    max_leaves=30,
)


@settings(deadline=None)
@given(values)
def test_what_is_written_reads_back_equal(value: Any) -> None:
    assert strict_json.loads(strict_json.canonical(value), "x") == value


@settings(deadline=None)
@given(values)
def test_what_is_written_is_a_fixed_point(value: Any) -> None:
    text = strict_json.canonical(value)

    assert strict_json.canonical(strict_json.loads(text, "x")) == text


@settings(deadline=None)
@given(st.dictionaries(texts, numbers), st.randoms(use_true_random=False))
def test_the_text_does_not_depend_on_the_order_of_keys(value: dict[str, Any], random: Any) -> None:
    items = list(value.items())
    random.shuffle(items)

    assert strict_json.canonical(dict(items)) == strict_json.canonical(value)


@settings(deadline=None)
@given(st.binary() | st.text())
def test_any_text_is_read_or_refused(text: str | bytes) -> None:
    try:
        strict_json.loads(text, "x")
    except InputError as error:
        assert error.lines()[0].startswith("error: x")


@settings(deadline=None)
@given(values)
def test_no_control_character_is_left_to_reach_a_terminal(value: Any) -> None:
    text = strict_json.canonical(value).replace("\n", "")

    assert not any(ord(c) < 0x20 or 0x7F <= ord(c) < 0xA0 for c in text)


def test_the_form_of_the_text() -> None:
    value = {"b": [1, 1.0, -0.0, 1e-5, 1e22, 0.1, True, None], "a": {}, "é": 'q"\x9b\x1b'}

    assert strict_json.canonical(value) == (
        '{\n  "a": {},\n  "b": [\n    1,\n    1.0,\n    0.0,\n    1e-05,\n    1e+22,\n    0.1,\n'
        '    true,\n    null\n  ],\n  "é": "q\\"\\u009b\\u001b"\n}\n'
    )


def test_the_text_does_not_depend_on_the_locale() -> None:
    before = locale.setlocale(locale.LC_ALL)
    expected = strict_json.canonical({"x": 1.5, "Z": 1, "a": 2})
    try:
        for name in ("de_DE.UTF-8", "C.UTF-8", "C"):
            try:
                locale.setlocale(locale.LC_ALL, name)
            except locale.Error:
                continue
            assert strict_json.canonical({"a": 2, "x": 1.5, "Z": 1}) == expected
    finally:
        locale.setlocale(locale.LC_ALL, before)


def test_numpys_floats_are_written_as_floats() -> None:
    import numpy as np

    assert strict_json.canonical(np.float64(0.1)) == "0.1\n"


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


def test_writing_and_reading_draw_the_same_line_at_depth() -> None:
    deepest = nested(strict_json.DEPTH)
    assert strict_json.loads(strict_json.canonical(deepest), "x") == deepest

    with pytest.raises(ValueError, match="nested deeper than 64 levels"):
        strict_json.canonical(nested(strict_json.DEPTH + 1))
    with pytest.raises(InputError, match="is nested deeper than 64 levels"):
        strict_json.loads(json.dumps(nested(strict_json.DEPTH + 1)), "x")


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (math.nan, ValueError),
        (math.inf, ValueError),
        (2**64, ValueError),
        ("\ud800", ValueError),
        ({1: 2}, TypeError),
        ({"a": {1, 2}}, TypeError),
        (b"a", TypeError),
    ],
)
def test_what_could_not_be_read_back_is_not_written(value: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        strict_json.canonical(value)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('{"a": 1, "b": 2, "a": 3}', 'plan.json: key "a" is given twice'),
        ('{"x": {"a": 1, "a": 1}}', 'plan.json: key "a" is given twice'),
        ("[NaN]", "plan.json: NaN is not a JSON number"),
        ("[-Infinity]", "plan.json: -Infinity is not a JSON number"),
        ("[1e999]", 'plan.json: number "1e999" is out of range'),
        ("18446744073709551616", 'plan.json: number "18446744073709551616" is out of range'),
        ("9" * 5000, 'plan.json: number "9999999999999999999999999999999999999..." is out of range'),
        ("[" * 100_000, "plan.json: is nested deeper than 64 levels"),
        ('{"a":' * 70 + "1" + "}" * 70, "plan.json: is nested deeper than 64 levels"),
        ('"\\ud800"', 'plan.json: string "\\ud800" has half of a surrogate pair'),
        ('{"\\udfff": 1}', 'plan.json: string "\\udfff" has half of a surrogate pair'),
        (b'"\xff"', "plan.json: is not UTF-8 (byte 1)"),
        ("{}".encode("utf-16"), "plan.json: starts with a byte order mark; plain UTF-8 is wanted"),
        (b"\xef\xbb\xbf{}", "plan.json: starts with a byte order mark; plain UTF-8 is wanted"),
        ("\ufeff{}", "plan.json: starts with a byte order mark; plain UTF-8 is wanted"),
        ("", "plan.json: is empty; JSON is wanted"),
        (" \n", "plan.json: is empty; JSON is wanted"),
        ('{\n "a": 1,\n}', "plan.json:3: is not JSON: "),
        ("{} {}", "plan.json:1: is not JSON: extra data (column 4)"),
        ("'a'", "plan.json:1: is not JSON: expecting value (column 1)"),
        ("[" + " " * 1000 + "]", "plan.json: is 1,002 bytes long; at most 1,000 are read"),
    ],
)
def test_each_way_of_being_wrong_has_its_line(text: str | bytes, line: str) -> None:
    limit = 1000 if line.endswith("1,000 are read") else strict_json.LIMIT

    (shown,) = refusal(PlanError, strict_json.loads, text, "plan.json", limit=limit, error=PlanError)

    if line.endswith(" "):
        assert shown.startswith(f"error: {line}")
    else:
        assert shown == f"error: {line}"


def test_a_file_over_the_limit_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Path("plan.json").open("wb") as file:
        file.truncate(10**12)

    assert refusal(PlanError, strict_json.read, "plan.json", limit=1000, error=PlanError) == [
        "error: plan.json: is 1,000,000,000,000 bytes long; at most 1,000 are read"
    ]


def test_a_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": [1]}')

    assert strict_json.read(tmp_path / "a.json") == {"a": [1]}
