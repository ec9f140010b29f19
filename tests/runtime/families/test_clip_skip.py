"""A text tower that is read before its last layer: what diffusers' `clip_skip` gives, and what the run says of it."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import pytest
import torch
from diffusers import StableDiffusionPipeline

from lorac import Base, Experiment, Fit, Images, LoRA, Outputs, Train
from lorac.compile import compile_experiment
from runtime import plan, preflight
from runtime.data import cache
from runtime.errors import SpecError
from runtime.export import manifest
from runtime.families import inspect, sd1
from runtime.preflight import Where
from runtime.run import Options, run
from runtime.safeio import digest, safetensors
from tests import single_files

PROMPT = "noise 3, tiny style"
LAYERS = 4


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random SD 1.x whose text tower has some layers to skip."""
    folder = tmp_path_factory.mktemp("skipped") / "base"
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng():
        torch.manual_seed(5)
        patch.setattr(sd1.tiny_parts, "CLIP", sd1.tiny_parts.CLIP | {"num_hidden_layers": LAYERS})
        return sd1.tiny(folder)


def planned(base: Path, data: Path, root: Path, clip_skip: int = 1, **parts: Any) -> plan.Plan:
    experiment = Experiment(
        name="tiny",
        base=Base(str(base), clip_skip=clip_skip),
        data=Images(str(data), resolution=64),
        adapter=LoRA(rank=2, text_encoder=True),
        train=Train(effective_batch=2, steps=1),
        fit=Fit(card="cpu", threads=1, micro_batch=2),
        outputs=Outputs(dtype="fp32"),
    )
    return compile_experiment(attrs.evolve(experiment, **parts), root, root, None, False)


@pytest.fixture(scope="module")
def second(base: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> plan.Plan:
    """A plan with a clip skip of 2."""
    return planned(base, tiny_data, tmp_path_factory.mktemp("second"), 2)


@pytest.fixture(scope="module", params=[1, 2, LAYERS])
def skip(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def of_diffusers(base: Path, clip_skip: int) -> torch.Tensor:
    """What diffusers' pipeline conditions on: its `clip_skip` counts the layers that are left out."""
    pipe = StableDiffusionPipeline.from_pretrained(base, safety_checker=None, torch_dtype=torch.float32)
    # diffusers 0.42.1 asks for a level that transformers has had no more since 5.6
    pipe.text_encoder.__dict__["text_model"] = pipe.text_encoder
    with torch.no_grad():
        found: torch.Tensor = pipe.encode_prompt(PROMPT, "cpu", 1, False, clip_skip=clip_skip - 1 or None)[0]
    return found


@pytest.mark.parametrize("layout", ["diffusers", "single_file"])
def test_captions_are_read_as_diffusers_reads_them(
    base: Path, tiny_data: Path, tmp_path: Path, skip: int, layout: str
) -> None:
    path = base if layout == "diffusers" else single_files.write("sd1", base, tmp_path / "base.safetensors")
    of = planned(path, tiny_data, tmp_path, skip).program.base
    tower = sd1.load(path, of, "text_encoder", torch.float32)
    tokens = sd1.tokenize(sd1.load_tokenizers(path, of), [PROMPT])

    with torch.no_grad():
        ours = sd1.encode_text({"text_encoder": tower}, tokens)["hidden"]

    assert of.layout == layout
    assert torch.equal(ours, of_diffusers(base, skip))


def test_no_two_layers_are_the_same(base: Path) -> None:
    read = [of_diffusers(base, skip) for skip in (1, 2, LAYERS)]

    assert not any(torch.allclose(one, other, atol=1e-3) for one, other in pairwise(read))


def test_the_plan_has_the_layers_that_are_left_and_another_hash(
    base: Path, tiny_data: Path, second: plan.Plan, tmp_path: Path
) -> None:
    plain = planned(base, tiny_data, tmp_path)
    first, other = plain.program, second.program

    assert (first.base.clip_skip, other.base.clip_skip) == (1, 2)
    assert other.base.architecture["text_encoder"]["num_hidden_layers"] == LAYERS - 1
    assert other.base.digest == first.base.digest and second.plan_hash != plain.plan_hash
    assert (
        first.adapter.modules["text_encoder"] - other.adapter.modules["text_encoder"] == 3
    )  # q, k and v of one layer
    assert [one.reason for one in second.estimate.decisions if one.field == "base"] == [
        "from its tensors; epsilon, clip skip 2"
    ]


def test_captions_are_encoded_anew_and_pictures_are_not() -> None:
    def keys(skip: int) -> tuple[str, str]:
        program: Any = SimpleNamespace(base=SimpleNamespace(digest="d", clip_skip=skip), versions={})
        modules = {"a": torch.nn.Linear(1, 1)}
        return cache.encoder_digest(program, "sd1", modules), cache.encoder_digest(
            program, "sd1", modules, skip
        )

    (pictures, captions), (same_pictures, others) = keys(1), keys(2)
    assert pictures == same_pictures == captions
    assert others != captions


@pytest.mark.parametrize("trained", [True, False])
def test_a_run_says_it_where_others_look(
    base: Path, tiny_data: Path, tmp_path: Path, second: plan.Plan, trained: bool
) -> None:
    of = second if trained else planned(base, tiny_data, tmp_path, 2, adapter=LoRA(rank=2))
    output = tmp_path / "out"
    where = Where(base=base, data=tiny_data, output=output, log=output / "logs", cache=tmp_path / "cache")
    preflight.check(of, where)
    run(of, Options(where=where))

    header = safetensors.read_header(output / "tiny.safetensors")
    layers = {name.split("_layers_")[1][0] for name in header.tensors if "_layers_" in name}
    assert layers == ({"0", "1", "2"} if trained else set())
    assert (header.metadata["ss_clip_skip"], header.metadata["modelspec.encoder_layer"]) == ("2", "2")
    assert manifest.read(output / "tiny.lorac.json").usage.clip_skip == 2
    assert "<code>clip_skip=1</code> in diffusers" in (output / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("family", ["sd2", "sdxl"])
def test_a_family_that_says_which_layer_it_reads_takes_no_other(
    family: str, tiny_data: Path, tmp_path: Path
) -> None:
    experiment = Experiment(
        name="a", base=Base("none", family=family, clip_skip=2), data=Images(str(tiny_data), resolution=512)
    )

    with pytest.raises(
        SpecError, match=r"base\.clip_skip: which layer a Stable Diffusion \S+ reads is fixed"
    ):
        compile_experiment(experiment, tmp_path, tmp_path, "cpu", True)


def test_no_more_layers_are_skipped_than_there_are(base: Path, tiny_data: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=f"must be at most {LAYERS}, the layers there are, got {LAYERS + 1}"):
        planned(base, tiny_data, tmp_path, LAYERS + 1)


def test_a_base_is_as_long_as_its_files_say_where_nothing_is_skipped(base: Path) -> None:
    of = inspect.inspect(base, digest.sha256_file).base

    assert (of.clip_skip, of.architecture["text_encoder"]["num_hidden_layers"]) == (1, LAYERS)
