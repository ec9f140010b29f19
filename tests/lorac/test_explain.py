"""Where a plan's memory goes: the parts sum to the whole, and a change's figures are a trace's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from lorac import Base, Experiment, Fit, Images, LoRA, Train
from lorac.compile import compile_experiment
from lorac.estimate import cards, cuda
from lorac.estimate.cost import Costs
from lorac.estimate.record import Block, Peak
from lorac.explain import UNNAMED, Explained, Node, card_of, explain, resolutions, tree, variants
from lorac.render import explain_text
from runtime import plan
from tests.lorac.calling import call
from tests.lorac.plans import ESTIMATE, MIB, PROGRAM, a_plan


@pytest.fixture(scope="module")
def small(tiny_base: Path, tiny_data: Path) -> plan.Plan:
    experiment = Experiment(
        name="small",
        base=Base(str(tiny_base)),
        data=Images(str(tiny_data), resolution=64),
        adapter=LoRA(rank=4),
        train=Train(effective_batch=4, epochs=1),
        fit=Fit(card="12GB", micro_batch=2),
    )
    return compile_experiment(experiment, tiny_data, tiny_data)


@pytest.fixture(scope="module")
def found(small: plan.Plan, cache: Path) -> Explained:
    return explain(small, cache)


def nodes(node: Node) -> Iterator[Node]:
    yield node
    for part in node.parts:
        yield from nodes(part)


def test_the_peak_and_its_kinds_are_the_plans(small: plan.Plan, found: Explained) -> None:
    assert found.peak_bytes == small.estimate.peak_bytes
    assert found.by_kind == small.estimate.by_kind
    assert found.seconds_per_step == small.estimate.seconds_per_step


def test_each_part_of_the_tree_is_the_sum_of_its_parts_and_of_its_kinds(found: Explained) -> None:
    live = sum(found.by_kind.values()) - found.by_kind["context and workspaces"]
    assert found.modules.bytes == live - found.by_kind.get("cached but unused", 0)
    for node in nodes(found.modules):
        assert node.bytes == sum(node.kinds.values())
        if node.parts:
            own = node.bytes - sum(part.bytes for part in node.parts)
            assert own == 0, node.name


def test_parts_come_largest_first(found: Explained) -> None:
    for node in nodes(found.modules):
        sizes = [part.bytes for part in node.parts if "smaller" not in part.name]
        assert sizes == sorted(sizes, reverse=True)


def test_what_the_step_itself_makes_is_named_and_small_parts_are_summed_up() -> None:
    blocks = [
        Block(2**20, "base weights", "Net.a.x", "", "make", "make"),
        Block(2**20, "saved activations", "Net.b.y", "", "step", "forward"),
        Block(2**19, "optimizer state", "", "", "step", "optimizer"),
        *(Block(512, "adapter", f"Net.c{number}", "", "make", "make") for number in range(3)),
    ]
    whole = tree(Peak(sum(block.bytes for block in blocks), 0, "step", tuple(blocks)))

    assert [(part.name, part.bytes) for part in whole.parts] == [
        ("Net", 2 * 2**20 + 1536),
        (UNNAMED, 2**19),
    ]
    assert [(part.name, part.bytes) for part in whole.parts[0].parts] == [
        ("a.x", 2**20),
        ("b.y", 2**20),
        ("3 smaller", 1536),
    ]


def test_every_change_keeps_the_effective_batch_and_changes_one_thing(small: plan.Plan, cache: Path) -> None:
    costs = Costs(cards.find("12GB"), cache)
    changed = list(variants(small.program, costs))
    words = [what for what, _, _ in changed]

    assert words[:2] == ["micro-batch 1 × 4", "micro-batch 4 × 1"]
    assert words[-3:] == ["rank 2", "rank 8", "dtype fp32"]
    assert words[2:-3] == [
        "6 blocks recomputed",
        "all 38 blocks recomputed",
        "all 38 blocks offloaded",
        "fit.optimizer_bits 8",
        'fit.quantization "int8"',
        'fit.quantization "nf4"',
    ]
    for what, program, same in changed:
        train = program.train
        assert train.micro_batch * train.accumulation == 4, what
        assert program != small.program
        assert same == what.startswith(("micro-batch", "6 blocks", "all 38 blocks"))


def test_another_resolution_scales_the_largest_bucket() -> None:
    wide = attrs.evolve(PROGRAM.data.items[0], bucket=(640, 384))
    program = attrs.evolve(PROGRAM, data=attrs.evolve(PROGRAM.data, items=(wide,)))

    assert [(what, changed.data.items[0].bucket) for what, changed in resolutions(program)] == [
        ("resolution 384", (512, 320)),
        ("resolution 768", (960, 576)),
    ]


def test_a_changes_figures_are_those_of_its_own_trace(
    small: plan.Plan, found: Explained, cache: Path
) -> None:
    costs = Costs(cards.find("12GB"), cache)
    for change, (what, program, _) in zip(found.changes, variants(small.program, costs), strict=True):
        cost = costs.exact(program)
        assert (change.what, change.peak_bytes) == (what, cost.peak_bytes)
        assert change.seconds_per_step == cost.seconds_per_step
        assert change.fits == (cost.peak_bytes <= found.usable_bytes)


def test_the_command_prints_it_draws_it_and_needs_no_base(
    small: plan.Plan, found: Explained, tmp_path: Path
) -> None:
    plan.write(small, tmp_path / "plan.json")
    drawing = tmp_path / "step.svg"
    called = call("explain", str(tmp_path), "--svg", str(drawing))

    assert (called.code, called.err) == (0, "")
    assert called.out == f"{explain_text(found, 100)}\n\nwrote {drawing}\n"
    assert drawing.read_text().startswith("<svg ")


def test_json_says_the_same(small: plan.Plan, found: Explained, tmp_path: Path) -> None:
    plan.write(small, tmp_path / "plan.json")
    said = json.loads(call("explain", str(tmp_path), "--json").out)

    assert said["peak_bytes"] == found.peak_bytes
    assert said["modules"]["bytes"] == found.modules.bytes
    assert [change["what"] for change in said["changes"]] == [change.what for change in found.changes]


# ---------------------------------------------------------------------------------- cards that are not known here


def renamed(of: plan.Plan, **fields: object) -> plan.Plan:
    """The plan with other fields of its estimate."""
    return attrs.evolve(of, estimate=attrs.evolve(of.estimate, **fields))


def test_a_card_in_no_table_is_explained_from_what_the_plan_holds(
    small: plan.Plan, found: Explained, cache: Path, tmp_path: Path
) -> None:
    usable = small.estimate.usable_bytes - 5 * MIB
    unknown = renamed(small, card="NVIDIA Engineering Sample", usable_bytes=usable)
    plan.write(unknown, tmp_path / "plan.json")
    called = call("explain", str(tmp_path / "plan.json"), "--svg", str(tmp_path / "step.svg"))
    there = explain(unknown, cache)

    assert called.code == 0
    assert f"of {usable / 2**30:.2f} GiB usable on NVIDIA Engineering Sample" in called.out
    assert "NVIDIA Engineering Sample is not a card that lorac knows" in " ".join(called.out.split())
    assert (there.peak_bytes, there.by_kind) == (small.estimate.peak_bytes, small.estimate.by_kind)
    assert (there.card, there.usable_bytes) == ("NVIDIA Engineering Sample", usable)
    assert there.seconds_per_step == small.estimate.seconds_per_step
    assert [one.peak_bytes for one in there.changes] == [one.peak_bytes for one in found.changes]
    assert (tmp_path / "step.svg").read_text().startswith("<svg ")


@pytest.mark.parametrize(
    ("name", "gigabytes", "near"),
    [
        ("NVIDIA GeForce RTX 4090 Laptop GPU", 16, "GeForce RTX 4090"),
        ("Unheard of", 12, "GeForce RTX 3060 12GB"),
    ],
)
def test_the_nearest_card_by_name_then_by_size_stands_for_an_unknown_one(
    name: str, gigabytes: int, near: str
) -> None:
    kinds = ESTIMATE.by_kind | {"context and workspaces": 76 * cuda.CONTEXT_PER_MULTIPROCESSOR}
    memory = gigabytes * 2**30
    estimate = attrs.evolve(ESTIMATE, card=name, card_bytes=memory, usable_bytes=memory - 1, by_kind=kinds)
    card, notes = card_of(a_plan(estimate=estimate))

    assert (card.name, card.memory, card.usable, card.multiprocessors) == (name, memory, memory - 1, 76)
    assert card.bf16 == cards.find(near).bf16
    assert card.capability == cards.find(near).capability
    assert notes == (f"{name} is not a card that lorac knows: {near} stands for its kernels and speed",)


def test_a_card_of_the_table_needs_no_note(found: Explained) -> None:
    assert found.notes == ()


def test_seconds_are_the_plans_own_and_a_change_is_a_share_of_them(
    small: plan.Plan, found: Explained, cache: Path
) -> None:
    faster = renamed(small, seconds_per_step=small.estimate.seconds_per_step / 4)
    said = explain(faster, cache)

    assert said.seconds_per_step == faster.estimate.seconds_per_step
    for there, here in zip(said.changes, found.changes, strict=True):
        assert there.seconds_per_step == pytest.approx(here.seconds_per_step / 4)


def test_a_plan_for_a_cpu_is_explained_on_this_one_whatever_machine_it_was_made_for() -> None:
    compute = attrs.evolve(PROGRAM.compute, device="cpu", threads=64, dtype="fp32")
    elsewhere = attrs.evolve(ESTIMATE, card="cpu", card_bytes=2**45, usable_bytes=2**44)
    of = a_plan(program=attrs.evolve(PROGRAM, compute=compute), estimate=elsewhere)

    assert card_of(of) == (cards.cpu(), ())


def test_a_peak_that_is_not_the_plans_is_told(small: plan.Plan, cache: Path) -> None:
    other = renamed(small, peak_bytes=small.estimate.peak_bytes + MIB)
    [note] = explain(other, cache).notes
    assert note.startswith("traced here the peak is ")
