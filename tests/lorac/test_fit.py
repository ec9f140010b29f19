"""One spec, many cards: what is decided for each, and what is said where nothing fits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lorac import fit as fitting
from lorac.fit import Row
from lorac.render import fit_text
from runtime.errors import DoesNotFit, Problem
from tests.lorac.calling import call

SPEC = """\
from lorac import *
experiment = Experiment(
    name="small", base=Base({base!r}), data=Images({data!r}, resolution=64),
    adapter=LoRA(rank=4), train=Train(effective_batch=4, epochs=1),
)
"""


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, tiny_data: Path) -> str:
    path = tmp_path_factory.mktemp("spec") / "small.py"
    path.write_text(SPEC.format(base=str(tiny_base), data=str(tiny_data)))
    return str(path)


def test_json_has_one_object_for_each_card_in_the_order_asked(spec: str) -> None:
    called = call("fit", spec, "--cards", "24GB, 12GB", "--json")
    rows = json.loads(called.out)

    assert (called.code, called.err) == (0, "")
    assert [row["card"] for row in rows] == ["24GB", "12GB"]
    keys = {"card", "fits", "rank", "micro_batch", "accumulation", "effective_batch", "peak_bytes", "seconds"}
    assert all(
        keys
        | {"name", "resolution", "length", "checkpointed", "offloaded", "quantization", "usable_bytes", "why"}
        == set(row)
        for row in rows
    )
    for row in rows:
        assert row["fits"] is True
        assert row["micro_batch"] * row["accumulation"] == row["effective_batch"] == 4
        assert 0 < row["peak_bytes"] <= row["usable_bytes"]
    assert call("fit", spec, "--cards", "24GB,12GB", "--json").out == called.out


def test_a_row_is_what_plan_decides_for_that_card(spec: str, tmp_path: Path) -> None:
    row = json.loads(call("fit", spec, "--cards", "12GB", "--json").out)[0]
    planned = json.loads(call("plan", spec, "--card", "12GB", "--json", "--out", str(tmp_path)).out)[
        "estimate"
    ]

    assert (row["peak_bytes"], row["seconds"]) == (planned["peak_bytes"], planned["seconds"])


def test_a_card_where_nothing_fits_is_a_row_too(spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise DoesNotFit(Problem("fit.card", "nothing fits", "2.00 GiB too much"), 3 * 2**30, 2**30)

    monkeypatch.setattr(fitting, "compile_experiment", refuse)
    row = json.loads(call("fit", spec, "--cards", "12GB", "--json").out)[0]

    assert row == {
        "name": "small",
        "card": "12GB",
        "fits": False,
        "resolution": 64,
        "length": None,
        "rank": None,
        "micro_batch": None,
        "accumulation": None,
        "effective_batch": 4,
        "checkpointed": None,
        "offloaded": None,
        "quantization": None,
        "peak_bytes": 3 * 2**30,
        "usable_bytes": 2**30,
        "seconds": None,
        "why": "2.00 GiB too much",
    }


def test_all_unknown_cards_are_told_at_once(spec: str) -> None:
    called = call("fit", spec, "--cards", "12GB,3GB,4GB")

    assert (called.code, called.out) == (2, "")
    assert called.err == (
        "error: card: no known card has 3 GB\n"
        "error: card: no known card has 4 GB\n"
        "hint: sizes near it: 6GB, 8GB, 10GB, 11GB\n"
    )


def test_no_card_at_all_is_a_mistake(spec: str) -> None:
    called = call("fit", spec, "--cards", ", ")

    assert called.code == 2
    assert called.err == "error: cards: no card is named\nhint: --cards 8GB,12GB,24GB\n"


FITS = Row(
    name="cats",
    card="12GB",
    fits=True,
    resolution=512,
    length=None,
    rank=16,
    micro_batch=2,
    accumulation=2,
    effective_batch=4,
    checkpointed=3,
    offloaded=0,
    quantization="none",
    peak_bytes=8 * 2**30,
    usable_bytes=11 * 2**30,
    seconds=900.0,
)
MISSES = Row(
    name="cats",
    card="6GB",
    fits=False,
    resolution=512,
    length=None,
    rank=None,
    micro_batch=None,
    accumulation=None,
    effective_batch=4,
    checkpointed=None,
    offloaded=None,
    quantization=None,
    peak_bytes=6 * 2**30,
    usable_bytes=5 * 2**30,
    seconds=None,
    why="1.00 GiB too much; what would fit: data.resolution 448",
)


def test_the_matrix_at_80_columns_is_this_text() -> None:
    assert (
        fit_text([MISSES, FITS], 80)
        == """\
cats
  card  rank  pixels  micro × accum.  recomputed  peak / usable         time
  6GB   -     512     does not fit    -           6.00 GiB / 5.00 GiB   -
  12GB  16    512     2 × 2 = 4       3 blocks    8.00 GiB / 11.00 GiB  15m00s
  6GB: 1.00 GiB too much; what would fit: data.resolution 448"""
    )
