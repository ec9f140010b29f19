"""A word's own vectors: planned, trained beside the LoRA, resumed to the same bytes, measured; nothing else moves."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch

from lorac import Experiment, Fit, Images, LoRA, Outputs, TextualInversion, Train
from lorac.estimate import bases, cards, phases
from lorac.resolve import resolve
from runtime import checkpoint, plan, preflight, step
from runtime.adapters import adapted
from runtime.errors import Interrupted
from runtime.evaluation import subject
from runtime.families import family
from runtime.families.protocol import Batch
from runtime.run import Options, adapt, load, run
from runtime.safeio.weights import open_weights
from runtime.sampling import Studio
from tests.runtime.plans import estimate, where

WORD = TextualInversion("style", initial="noise", vectors=2, learning_rate=1e-2)
TABLE = "text_encoder.embeddings.token_embedding"
FILE = "embeddings/style.safetensors"


def planned(base: Path, data: Path, root: Path, word: TextualInversion = WORD, **fit: Any) -> plan.Plan:
    """Three steps of two samples."""
    experiment = Experiment(
        name="tiny",
        base=str(base),
        data=Images(str(data), resolution=64),
        adapter=LoRA(rank=1, targets=r"re:.*attn2\.to_k", words=(word,)),
        train=Train(effective_batch=2, steps=3, learning_rate=1e-2, scheduler="constant"),
        fit=Fit(card="cpu", threads=1, micro_batch=2, **fit),
        outputs=Outputs(dtype="fp32", save_steps=2),
    )
    found = resolve(experiment, root, root, cards.find("cpu"), False)
    return plan.make(found.program, found.outputs, estimate())


def carried_out(of: plan.Plan, folder: Path, stop_at: int = -1) -> Path:
    def fault(at: int) -> None:
        if at == stop_at:
            signal.raise_signal(signal.SIGINT)

    places = where(of, folder)
    preflight.check(of, places)
    return run(of, Options(where=places, fault=fault))


@pytest.fixture(scope="module")
def tiny(tiny_base: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> plan.Plan:
    return planned(tiny_base, tiny_data, tmp_path_factory.mktemp("words"))


@pytest.fixture(scope="module")
def through(tiny: plan.Plan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was never stopped. Not to be written to."""
    return carried_out(tiny, tmp_path_factory.mktemp("through"))


def test_it_is_trained_resumed_to_the_same_bytes_and_handed_on(
    tiny: plan.Plan, through: Path, tmp_path: Path
) -> None:
    with pytest.raises(Interrupted):
        carried_out(tiny, tmp_path / "stopped", stop_at=1)
    resumed = carried_out(tiny, tmp_path / "stopped")
    for file in (FILE, "tiny.safetensors"):
        assert (resumed / file).read_bytes() == (through / file).read_bytes(), file

    manifest = json.loads((through / "tiny.lorac.json").read_text())
    assert {one["name"]: one["role"] for one in manifest["files"]}[FILE] == "embedding"
    with (
        open_weights(through / FILE) as file,
        open_weights(through / "checkpoints" / "step-000003" / "adapter.safetensors") as kept,
    ):
        assert torch.equal(file.load("emb_params"), kept.load(f"{TABLE}.<style>"))
        assert [name for name in kept if not name.startswith("unet.")] == [f"{TABLE}.<style>"]


def test_a_checkpoint_s_lora_has_its_word_beside_it_and_evaluation_draws_with_it(
    tiny: plan.Plan, through: Path, tmp_path: Path
) -> None:
    two, three = (through / "checkpoints" / f"step-{step:06}" for step in (2, 3))
    assert (three / FILE).read_bytes() == (through / FILE).read_bytes()
    for folder in (two, three):
        assert {FILE, f"tiny-{folder.name[-6:]}.safetensors"} <= checkpoint.receipt(folder).files.keys()

    of = subject.load(*subject.read(through), attrs.evolve(where(tiny, tmp_path), output=through))
    encoder, path = TABLE.split(".", 1)
    for step_, folder in ((3, three), (2, two)):
        subject.restore(of, step_)
        with open_weights(folder / FILE) as file:
            assert torch.equal(
                of.modules[encoder].get_submodule(path).parts["<style>"], file.load("emb_params")
            )
    assert len(of.tokenizers[encoder]("style", add_special_tokens=False).input_ids) == WORD.vectors


def trainee_of(of: plan.Plan, folder: Path) -> tuple[step.Trainee, dict[str, Any]]:
    """The base with all that is trained on it, and the tokenizers that know the word."""
    architecture = family(of.program.base.family)
    modules, tokenizers = load(architecture, of.program, where(of, folder), torch.device("cpu"))
    return adapt(architecture, modules, of.program), tokenizers


def learn(of: step.Trainee, tokenizers: dict[str, Any], steps: int = 2) -> None:
    architecture = of.program.base.architecture
    generator = torch.Generator().manual_seed(0)
    batch: Batch = of.family.example(architecture, 2, (64, 64), True)
    batch = {
        name: torch.randn(tensor.shape, generator=generator) if tensor.is_floating_point() else tensor
        for name, tensor in batch.items()
    } | of.family.tokenize(tokenizers, ["noise, tiny style", "noise"])
    for _ in range(steps):
        step.gradients(of, [(batch, range(2))], 2)
        step.update(of, 1.0)


@pytest.mark.parametrize("name", ["sd1", "sd2", "sdxl"])
def test_of_the_text_encoders_only_the_new_rows_learn(name: str, tiny_data: Path, tmp_path: Path) -> None:
    base = family(name).tiny(tmp_path / "base")
    trainee, tokenizers = trainee_of(planned(base, tiny_data, tmp_path / "here"), tmp_path)
    encoders = {one: trainee.modules[one] for one in trainee.family.WORD_FILES}
    before = {one: {k: v.clone() for k, v in module.state_dict().items()} for one, module in encoders.items()}

    learn(trainee, tokenizers)

    for one, module in encoders.items():
        moved = {
            key for key, value in module.state_dict().items() if not torch.equal(value, before[one][key])
        }
        (path,) = moved
        assert path.endswith("token_embedding.parts.<style>")
        assert module.state_dict()[path].shape == (2, 64)


def test_at_rate_0_the_vectors_stay_and_the_lora_learns(
    tiny_base: Path, tiny_data: Path, tmp_path: Path
) -> None:
    still = TextualInversion("style", initial="noise", vectors=2, learning_rate=0)
    trainee, tokenizers = trainee_of(planned(tiny_base, tiny_data, tmp_path, still), tmp_path)
    before = {name: master.detach().clone() for name, master in trainee.masters.items()}

    learn(trainee, tokenizers)

    moved = {name for name, master in trainee.masters.items() if not torch.equal(master, before[name])}
    assert moved == trainee.masters.keys() - {f"{TABLE}.<style>"}


def test_pictures_are_drawn_with_the_vectors_and_the_base_s_with_what_they_began_as(
    tiny: plan.Plan, tmp_path: Path
) -> None:
    trainee, tokenizers = trainee_of(tiny, tmp_path)
    studio = Studio(
        family=trainee.family, modules=trainee.modules, tokenizers=tokenizers, program=trainee.program
    )
    samples = tiny.outputs.samples
    assert isinstance(samples, plan.Samples)
    one = attrs.evolve(samples, prompts=("a style",), steps=1)

    def drawn(weight: float) -> bytes:
        return studio.draw(one, weight)[0].tobytes()

    began = drawn(1.0)
    assert drawn(0.0) == began
    with torch.no_grad():
        trainee.weights[f"{TABLE}.<style>"].normal_(generator=torch.Generator().manual_seed(0))
    assert drawn(0.0) == began
    assert drawn(1.0) != began


def test_what_is_held_in_fewer_bits_has_masters_in_float32(
    tiny_base: Path, tiny_data: Path, tmp_path: Path
) -> None:
    trainee, _ = trainee_of(planned(tiny_base, tiny_data, tmp_path, dtype="bf16"), tmp_path)
    name = f"{TABLE}.<style>"
    assert (trainee.weights[name].dtype, trainee.masters[name].dtype) == (torch.bfloat16, torch.float32)


def test_the_planner_traces_all_that_is_trained(tiny: plan.Plan, tmp_path: Path) -> None:
    trainee, _ = trainee_of(tiny, tmp_path)
    modules = phases._adapted(trainee.family, tiny.program)
    traced = {
        f"{component}.{name}": weight.shape
        for component in plan.trained(tiny.program.adapter)
        for name, weight in adapted.parameters(modules[component]).items()
    }

    assert traced == {name: master.shape for name, master in trainee.masters.items()}
    assert not {"text_encoder"} & {*bases.frozen(tiny.program), *tiny.program.compute.offloaded}
    assert not bases.encodes_text(trainee.family, tiny.program)
