"""A finished run evaluated: every checkpoint and weight has its figures, and what is recommended can be applied."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file

from lorac import Answers
from runtime import plan
from runtime.evaluation import judge, results
from runtime.evaluation.__main__ import main
from runtime.export import manifest, write
from runtime.families import clip_vocabulary
from tests import texts
from tests.runtime.plans import carry_out, tiny_plan

PROMPTS = ("noise 1, tiny style", "noise 7, tiny style")
WORDS = 600
"""Of the judge's vocabulary."""


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random open_clip model of some kB as a folder."""
    folder = tmp_path_factory.mktemp("judge")
    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "patch_size": 8, "head_width": 16},
        "text_cfg": {
            "context_length": 16,
            "vocab_size": WORDS,
            "width": 32,
            "heads": 2,
            "layers": 1,
            "hf_tokenizer_name": "tiny",
        },
    }
    torch.manual_seed(0)
    model = open_clip.CLIP(config["embed_dim"], config["vision_cfg"], dict(config["text_cfg"]))
    clip_vocabulary.tokenizer(WORDS).save_pretrained(folder)
    save_file(
        {name: tensor.contiguous() for name, tensor in model.state_dict().items()}, folder / judge.WEIGHTS
    )
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash"}
    (folder / judge.CONFIG).write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}))
    return folder


@pytest.fixture(scope="module")
def trained(
    tiny_base: Path, tiny_data: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """A finished run of pictures with two checkpoints. Not to be written to."""
    samples = plan.Samples(
        prompts=PROMPTS,
        negative_prompt="",
        seed=1,
        steps=2,
        guidance=1.0,
        width=64,
        height=64,
        weight=1.0,
        every=0,
    )
    of = tiny_plan(
        tiny_base, tiny_data, held_out=1 / 3, samples=samples, save_steps=1, steps=2, choose="best", every=1
    )
    yield carry_out(of, tmp_path_factory.mktemp("trained")).parent


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of the finished run."""
    return Path(shutil.copytree(trained, tmp_path / "tiny"))


def test_each_checkpoint_and_weight_has_its_figures_and_pictures(
    run: Path, clip: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code = main([str(run), "--weights=0.5,1", "--judge", str(clip), "--json", "--debug"])

    assert code == 0
    found = results.read(run)
    assert json.loads(capfd.readouterr().out) == plan.unstructure(found)
    assert [(row.step, row.weight) for row in found.rows] == [(1, 0.5), (1, 1.0), (2, 0.5), (2, 1.0)]
    assert (found.base.step, found.base.weight) == (0, 0.0)
    assert found.judge is not None and found.judge.digest == judge.load(str(clip)).judge.digest
    for row in (found.base, *found.rows):
        assert [(one.prompt, one.seed) for one in row.pictures] == [
            (PROMPTS[at % 2], 1 + at) for at in range(4)
        ]
        assert all((run / one.file).is_file() and -1 <= (one.similarity or 0) <= 1 for one in row.pictures)
        assert [one.trained for one in row.recited] == [True] * 4 + [False] * 2
        assert all((run / one.file).is_file() and -1 <= one.nearness <= 1 for one in row.recited)
        figures = (row.loss, row.similarity, row.closeness, row.diversity, row.nearest)
        assert [one.count for one in figures if one] == [2, 4, 4, 2, 4]
    assert (run / found.grid).is_file()
    assert found.chosen.weight in (0.5, 1.0)


def test_the_loss_is_what_was_measured_in_training(run: Path) -> None:
    said = manifest.read(run / "tiny.lorac.json").run.choice
    assert main([str(run), "--weights=1", "--checkpoints=last", "--seeds=1"]) == 0
    found = results.read(run)

    assert said is not None
    at = next(row for row in found.rows if row.step == said.step)
    assert at.loss == results.Figure(mean=said.loss, low=said.low, high=said.high, count=2)
    assert found.judge is None and at.similarity is None and at.nearest is not None
    assert any("no judge" in warning for warning in found.warnings)
    assert found.chosen.weight_reason == "the weight with the lowest held-out loss"


def test_the_recommended_weight_is_written_to_every_file_and_the_lora_stays(run: Path) -> None:
    before = load_file(run / "tiny.safetensors")
    assert main([str(run), "--weights=0.55", "--checkpoints=last", "--seeds=1", "--apply"]) == 0
    after, of = load_file(run / "tiny.safetensors"), plan.read(run / "plan.json")

    assert json.loads((run / "tiny.json").read_text())["preferred weight"] == 0.55
    assert manifest.read(run / "tiny.lorac.json").usage.preferred_weight == 0.55
    assert of.outputs.preferred_weight == 0.55
    assert write.finished(run, of) == run / "tiny.safetensors"
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_what_is_wrong_in_the_options_is_told_at_once(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["nowhere", "--weights=0,x", "--seeds=0"]) == 2
    assert capfd.readouterr().err.splitlines() == [
        "error: --weights: must be numbers above 0 and at most 2 with commas, got '0,x'",
        "error: --seeds: must be between 1 and 64, got 0",
    ]


def test_a_judge_that_is_none_is_told(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([str(run), "--judge", str(run)]) == 3
    assert "open_clip_config.json: is missing" in capfd.readouterr().err
    assert main([str(run), "--judge", "ViT-B-32/no-such"]) == 3
    assert "open_clip knows no ViT-B-32/no-such" in capfd.readouterr().err


def test_of_text_loss_answers_and_repetition_are_measured(
    tiny_lm: Path, tiny_text: Path, cache: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    of = texts.planned(
        tiny_lm, tiny_text, tmp_path, steps=2, held_out=0.3, samples=Answers(prompts=("Say 3",), max_tokens=6)
    )
    folder = texts.carry_out(of, texts.where(of, tmp_path, cache)).parent

    assert main([str(folder), "--weights=1"]) == 0
    found = results.read(folder)
    assert "perplexity" in capfd.readouterr().out
    (row,) = found.rows
    assert row.loss is not None and found.base.loss is not None and row.perplexity is not None
    assert row.loss.mean < found.base.loss.mean
    assert [one.prompt for one in row.answers] == ["Say 3"]
    assert row.repetition is not None and row.repetition.count == 1
    assert (found.kind, found.grid, found.threshold, found.judge) == ("text", "", None, None)
