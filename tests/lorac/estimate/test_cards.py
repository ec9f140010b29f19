"""Cards are found by the names people write, and a wrong one is answered with near ones."""

from __future__ import annotations

import subprocess
import sys

import pytest

from lorac.estimate import cards, cuda
from runtime.errors import SpecError

MIB = 2**20


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("rtx3060-12gb", "GeForce RTX 3060 12GB"),
        ("RTX 4090", "GeForce RTX 4090"),
        ("NVIDIA GeForce RTX 4090", "GeForce RTX 4090"),
        ("rtx_4090", "GeForce RTX 4090"),
        ("Tesla T4", "Tesla T4"),
        ("a10g", "A10G"),
        ("12GB", "12GB"),
        ("24GiB", "24GB"),
        ("24", "24GB"),
        ("cpu", "cpu"),
    ],
)
def test_a_card_is_found_by_name_or_size(text: str, name: str) -> None:
    assert cards.find(text).name == name


def test_every_entry_is_whole_and_each_figure_has_its_source() -> None:
    assert len(cards.table()) >= 25
    for entry in cards.table():
        for field in ("driver_source", "cuda_source", "bandwidth_source", "rates_source"):
            assert entry[field], (entry["name"], field)
        assert entry["cuda_mib"] is None or entry["cuda_mib"] <= entry["driver_mib"]
        assert 0.9 * entry["size_gb"] * 1024 * 0.93 < entry["driver_mib"] <= entry["size_gb"] * 1024 + 8
        assert entry["fp16_tflops"] >= entry["fp32_tflops"]
        assert (entry["bf16_tflops"] is not None) == (entry["capability"] >= [8, 0])
        assert cards.find(entry["name"]).name == entry["name"]


def test_no_two_cards_share_a_name() -> None:
    every = [name for entry in cards.table() for name in cards.names(entry)]
    assert len(every) == len(set(every))


def test_what_can_be_used_is_less_than_what_cuda_offers_which_is_no_more_than_the_driver_has() -> None:
    for entry in cards.table():
        card = cards.find(entry["name"])
        assert 0 < card.usable < card.memory <= entry["driver_mib"] * MIB
        assert cuda.overhead(card) < card.usable


def test_a_size_promises_no_more_than_any_home_card_of_that_size_has() -> None:
    for entry in cards.table():
        if entry["display"]:
            generic = cards.find(f"{entry['size_gb']}GB")
            assert generic.usable <= cards.find(entry["name"]).usable
            assert cuda.overhead(generic) >= cuda.overhead(cards.find(entry["name"]))


def test_a_size_is_as_fast_as_the_slowest_home_card_with_bf16() -> None:
    assert cards.find("12GB").bandwidth == cards.find("rtx3060").bandwidth
    assert cards.find("8GB").bandwidth == cards.find("rtx3050").bandwidth


def test_an_unknown_name_is_answered_with_near_ones() -> None:
    with pytest.raises(SpecError) as failure:
        cards.find("rtx3061")
    assert failure.value.lines() == [
        "error: card: no card is called 'rtx3061'",
        "hint: did you mean rtx3060, rtx306012gb, rtx3060ti, rtx5060?",
    ]


def test_an_unknown_size_is_answered_with_near_ones() -> None:
    with pytest.raises(SpecError) as failure:
        cards.find("13GB")
    assert failure.value.lines() == [
        "error: card: no known card has 13 GB",
        "hint: sizes near it: 10GB, 11GB, 12GB, 16GB",
    ]


def test_finding_a_card_needs_no_torch() -> None:
    code = "\n".join(
        [
            "import sys",
            "from lorac.estimate import allocator, cards, cuda, record, roofline",
            "cards.find('12GB')",
            "print('torch' in sys.modules)",
        ]
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
