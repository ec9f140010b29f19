"""What a person reads of a plan, of two plans' differences, and of the spec's fields."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest

from lorac.diff import MISSING, Change
from lorac.reference import reference
from lorac.render import changes_text, plan_text, reference_text, summary, table
from tests.lorac.plans import ESTIMATE, a_plan, unlocked

PATH = Path("generated/cats/plan.json")


def test_a_plan_at_80_columns_is_this_text() -> None:
    of = a_plan()
    assert (
        plan_text(of, PATH, 80)
        == f"""\
cats  plan {of.plan_hash[:12]}

  base                        Stable Diffusion 1.x  from its tensors; epsilon
  rank                        16                    preferred, and it fits
  micro-batch × accumulation  2 × 2 = 4             fastest that fits: 15m00s in
                                                    all, 8.00 GiB of 11.00 GiB
                                                    usable

memory at the peak (training): 8.00 GiB of 11.00 GiB usable on 12GB (73%)
  saved activations    5.00 GiB  ████████████████████
  base weights         2.00 GiB                      ███████
  temporaries        1021.0 MiB                             ████
  gradients             3.0 MiB                                 █
  peak                 8.00 GiB  ███████████████████████████████
  usable              11.00 GiB  -------------------------------------------
  card                12.00 GiB  ===============================================

steps   1,200 in 15m00s, 0.75 s each
needs   3.00 GiB of the computer's memory, 64.0 MiB on disk
peaks   training 8.00 GiB, caching 3.00 GiB

not taken
  rank 16, micro-batch 4 × 1  13.00 GiB  is predicted not to fit: 2.00 GiB over

wrote generated/cats/plan.json
run it: lorac run generated/cats/plan.json"""
    )


def test_an_unlocked_plan_says_so_and_what_to_do() -> None:
    lines = plan_text(unlocked(), PATH, 80).splitlines()
    assert lines[0].endswith("  unlocked: planned without the base or the data")
    assert (
        lines[-1]
        == "to run it: put the base and the data where the spec says, then plan again without --unlocked"
    )


@pytest.mark.parametrize("width", [80, 120, 200])
def test_tables_and_bars_stay_inside_the_width(width: int) -> None:
    assert max(map(len, plan_text(a_plan(), PATH, width).splitlines())) <= width


def test_only_the_first_rejected_points_are_shown_and_the_rest_counted() -> None:
    many = attrs.evolve(ESTIMATE, rejected=ESTIMATE.rejected * 7)
    assert "  and 3 more, in the plan" in plan_text(a_plan(estimate=many), PATH, 100)


def test_a_plan_without_a_card_still_shows() -> None:
    empty = attrs.evolve(
        ESTIMATE, card_bytes=0, usable_bytes=0, peak_bytes=0, by_kind={}, phases={}, rejected=()
    )
    assert "memory at the peak: 0 B of 0 B usable" in plan_text(a_plan(estimate=empty), PATH, 80)


def test_a_peak_that_is_a_speck_on_the_card_is_drawn_large_and_the_card_goes_on() -> None:
    speck = attrs.evolve(ESTIMATE, card_bytes=2**40, usable_bytes=2**40)
    lines = plan_text(a_plan(estimate=speck), PATH, 80).splitlines()
    assert [line.strip() for line in lines if line.startswith(("  peak", "  usable"))] == [
        "peak                  8.00 GiB  ██████",
        "usable             1024.00 GiB  --------------------------------------------->",
    ]


def test_control_characters_in_a_plan_do_not_reach_the_terminal() -> None:
    decision = attrs.evolve(ESTIMATE.decisions[0], reason="\x1b[31mred")
    text = plan_text(a_plan(estimate=attrs.evolve(ESTIMATE, decisions=(decision,))), PATH, 100)
    assert "\x1b" not in text
    assert r"\x1b[31mred" in text


def test_a_summary_is_one_line() -> None:
    assert summary(a_plan(), PATH) == (
        "Planned generated/cats/plan.json: 1,200 steps, about 15m00s, 8.00 GiB of 11.00 GiB"
    )


def test_changes_name_the_field_and_both_values_in_units() -> None:
    changes = [
        Change("program.train.seed", 0, 1),
        Change("outputs.trigger", MISSING, "cat"),
        Change("outputs.author", "", "Jane"),
        Change("estimate.peak_bytes", 2**30, 2**31),
        Change("estimate.by_kind.base weights", 2**20, 0),
        Change("estimate.fallback_bytes", [2**30, 2**29], []),
        Change("estimate.seconds", 59.0, 125.2),
        Change("estimate.seconds_per_step", 0.5635163895404869, 0.2),
    ]
    assert changes_text(changes, 80).splitlines() == [
        "  program.train.seed: 0 -> 1",
        "  outputs.trigger: (none) -> cat",
        "  outputs.author: '' -> Jane",
        "  estimate.peak_bytes: 1.00 GiB -> 2.00 GiB",
        "  estimate.by_kind.base weights: 1.0 MiB -> 0 B",
        "  estimate.fallback_bytes: 1.00 GiB, 512.0 MiB -> (none)",
        "  estimate.seconds: 59s -> 2m05s",
        "  estimate.seconds_per_step: 0.5635 -> 0.2",
        "the trained bytes differ",
    ]
    assert changes_text(changes[1:], 80).endswith("the same bytes are trained")
    assert changes_text([], 80) == "the plans are the same"


def test_of_very_many_changes_the_first_are_shown_and_the_rest_counted() -> None:
    lines = changes_text([Change(f"outputs.x[{n}]", 0, 1) for n in range(50)], 80).splitlines()
    assert lines[-2:] == ["  and 10 more", "the same bytes are trained"]


def test_the_reference_has_every_field_with_its_range_and_default() -> None:
    text = reference_text(reference(), 100)
    for row in reference():
        if "." in row.field and not row.takes.endswith("(…)"):
            assert row.field.rpartition(".")[2] in text
    assert "adapter = LoRA(…)\n  rank: a whole number between 1 and 1024 or Auto(low, high)" in text
    assert max(map(len, text.splitlines())) <= 100


def test_a_long_cell_wraps_in_its_column() -> None:
    assert table([("a", "x " * 40)], 80) == [f"  a  {'x ' * 37}x", "     x x"]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_no_line_of_a_plans_table_is_wider_than_the_terminal(width: int) -> None:
    row = (
        "text encoder and vae",
        "dropped once the cache is made",
        "targets the family's usual, of all that it has",
    )
    lines = table([("micro-batch × accumulation", "8 × 1 = 8", "it fits"), row], width)
    assert max(map(len, lines)) <= width
    assert " ".join(" ".join(line.split()) for line in lines).count("accumulation") == 1
