"""Fused single-file layers become diffusers' own layers, as diffusers' converters split them at the published sizes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers.loaders import single_file_utils
from torch import Tensor, nn

from runtime.families import family, fused, fused_layouts
from tests.single_files import flux1 as flux1_file
from tests.single_files import sd3 as sd3_file

SMALL = {"num_layers": 2, "num_single_layers": 1, "dual_attention_layers": [0]}
"""A published width with few blocks."""


def one_column(transformer: nn.Module) -> dict[str, Tensor]:
    """Each tensor's rows, numbered, in one column: of the right height, and small."""
    found = {}
    for place, (name, tensor) in enumerate(transformer.state_dict().items()):
        rows = torch.arange(tensor.shape[0], dtype=torch.float64) + place * 1e6
        found[name] = rows[:, None] if tensor.dim() > 1 else rows
    return found


@pytest.mark.parametrize(
    ("name", "layout", "file", "convert"),
    [
        (
            "flux1",
            fused_layouts.FLUX1,
            flux1_file,
            single_file_utils.convert_flux_transformer_checkpoint_to_diffusers,
        ),
        (
            "sd3",
            fused_layouts.SD3,
            sd3_file,
            single_file_utils.convert_sd3_transformer_checkpoint_to_diffusers,
        ),
    ],
)
def test_rows_go_where_diffusers_puts_them(name: str, layout: fused.Layout, file: Any, convert: Any) -> None:
    of = family(name)
    architecture = of.published()
    config = architecture["transformer"]
    config |= {field: value for field, value in SMALL.items() if field in config}
    with torch.device("meta"):
        transformer = of.build(architecture, "transformer")
    ours = one_column(transformer)
    original = file.transformer(ours)
    width = config["num_attention_heads"] * config["attention_head_dim"]

    found = fused.weights(layout, original, original.__getitem__, "", width)
    theirs = convert(dict(original))

    assert found.keys() == theirs.keys() == ours.keys()
    assert all(torch.equal(found[key], theirs[key]) for key in theirs)


def test_a_part_does_not_hold_the_whole_layer() -> None:
    tensor = torch.arange(12.0).reshape(6, 2)
    layout = fused.Layout(around={"qkv": ("q", "k", "v")}, blocks={})

    found = fused.weights(layout, ["qkv.weight"], lambda name: tensor, "", 2)

    assert found["k.weight"].tolist() == [[4, 5], [6, 7]]
    assert all(part.untyped_storage().nbytes() == 16 for part in found.values())
