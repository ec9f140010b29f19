"""What every family of pictures and clips does, from its files to a LoRA that diffusers loads: over the registry.

Each family is its own `tiny()`: its architecture with random weights, the same loaders, steps and exporters.
"""

from __future__ import annotations

import json
import signal
from importlib import import_module
from pathlib import Path

import attrs
import pytest
import torch
from diffusers import DiffusionPipeline
from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict
from safetensors.torch import load_file
from torch import nn

from lorac import Experiment, Fit, Images, LoRA, Outputs, Samples, Train
from lorac.compile import compile_experiment
from runtime import checkpoint, plan, preflight
from runtime.errors import Interrupted
from runtime.export import diffusers
from runtime.families import FAMILIES, family, inspect
from runtime.families.protocol import Batch, Family, Modules
from runtime.plan_objective import wrong_objective
from runtime.preflight import Where
from runtime.run import Options, adapt, load, run
from runtime.safeio import digest
from tests import single_files

NAMES = tuple(name for name in FAMILIES if family(name).KIND != "text")


@attrs.frozen
class Case:
    """A family's tiny base and a plan over it."""

    of: Family
    base: Path
    plan: plan.Plan
    folder: Path

    def places(self, output: Path) -> Where:
        data = Path(self.plan.outputs.places.data)
        return Where(
            base=self.base, data=data, output=output, log=output / "logs", cache=self.folder / "cache"
        )

    def carried_out(self, output: Path, stop_at: int = 0) -> Path:
        """Run the plan, or until the step at which it is stopped."""

        def fault(step: int) -> None:
            if step == stop_at:
                signal.raise_signal(signal.SIGINT)

        where = self.places(output)
        preflight.check(self.plan, where)
        return run(self.plan, Options(where=where, fault=fault if stop_at else lambda step: None))


@pytest.fixture(scope="module", params=NAMES)
def case(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    tiny_data: Path,
    tiny_clips: Path,
) -> Case:
    of = family(request.param)
    are_clips = of.KIND == "clips"
    data = Images(str(tiny_clips if are_clips else tiny_data), resolution=of.GRID, flip=True)
    folder = tmp_path_factory.mktemp(request.param)
    base = of.tiny(folder / "base")
    experiment = Experiment(
        name="tiny",
        base=str(base),
        data=attrs.evolve(data, frames=3) if are_clips else data,
        adapter=LoRA(rank=4),
        train=Train(effective_batch=2, steps=3, learning_rate=1e-2),
        fit=Fit(card="cpu", threads=1),
        samples=Samples(prompts=("0",) if are_clips else ("noise",), steps=2),
        outputs=Outputs(dtype="fp32", save_steps=1),
    )
    return Case(of, base, compile_experiment(experiment, folder, folder, None, False), folder)


@pytest.fixture(scope="module")
def through(case: Case) -> Path:
    """The plan's run, not stopped."""
    return case.carried_out(case.folder / "through")


@pytest.fixture(scope="module")
def kept(case: Case, through: Path) -> dict[Path, int]:
    """The cache after that run: each file, and when it was written."""
    return written(case)


@pytest.fixture(scope="module")
def resumed(case: Case, kept: dict[Path, int]) -> Path:
    """The same plan's run, stopped and gone on with."""
    with pytest.raises(Interrupted):
        case.carried_out(case.folder / "resumed", stop_at=2)
    return case.carried_out(case.folder / "resumed")


def written(case: Case) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in (case.folder / "cache").rglob("*.safetensors")}


@pytest.mark.family("detect")
def test_a_folder_is_recognised(case: Case) -> None:
    assert case.plan.program.base.family == case.of.NAME
    assert case.plan.program.base.layout == "diffusers"


@pytest.mark.family("load folder")
def test_a_folder_is_loaded_as_diffusers_loads_it(case: Case, tmp_path: Path) -> None:
    program = case.plan.program
    ours, _ = load(case.of, program, case.places(tmp_path), torch.device("cpu"))
    pipe = DiffusionPipeline.from_pretrained(case.base, torch_dtype=torch.float32)
    theirs = {name: getattr(pipe, name) for name in case.of.COMPONENTS}

    assert torch.allclose(losses(case.of, ours, program), losses(case.of, theirs, program), rtol=1e-4)


@pytest.mark.family("load single file")
def test_a_single_file_is_recognised_and_holds_what_the_folder_does(case: Case, tmp_path: Path) -> None:
    path = single_files.write(case.of.NAME, case.base, tmp_path / "one.safetensors")
    found = inspect.inspect(path, digest.sha256_file).base

    assert (found.family, found.layout) == (case.of.NAME, "single_file")
    holds_what_the_folder_does(case, found, attrs.evolve(case.places(tmp_path), base=path))


APART = [name for name in NAMES if single_files.comes_apart(name)]


@pytest.mark.parametrize("case", APART, indirect=True)
def test_components_in_files_of_their_own_hold_what_the_folder_does(case: Case, tmp_path: Path) -> None:
    places = single_files.write_apart(case.of.NAME, case.base, tmp_path)
    own = places.pop(case.of.BACKBONE)
    found = inspect.inspect(own, digest.sha256_file, others=list(places.values()))

    assert (found.base.family, found.base.layout) == (case.of.NAME, "single_file")
    assert found.parts == places
    where = attrs.evolve(case.places(tmp_path), base=own, parts=found.parts)
    assert preflight.base_problems(found.base, own, found.parts) == []
    holds_what_the_folder_does(case, found.base, where)


def holds_what_the_folder_does(case: Case, found: plan.Base, where: Where) -> None:
    of, program = case.of, case.plan.program
    here, there = (
        load(of, attrs.evolve(program, base=base), places, torch.device("cpu"))
        for base, places in ((found, where), (program.base, case.places(where.output)))
    )
    for component in of.COMPONENTS:
        one, many = (modules[component].state_dict() for modules in (here[0], there[0]))
        assert one.keys() == many.keys(), component
        assert all(torch.equal(one[name], many[name]) for name in many), component
    one, many = (of.tokenize(tokenizers, ["a cat", ""]) for tokenizers in (here[1], there[1]))
    assert all(torch.equal(one[name], many[name]) for name in many)


@pytest.mark.family("train 3 steps")
def test_it_trains(case: Case, through: Path) -> None:
    state = checkpoint.newest(through / "checkpoints", case.plan.plan_hash)
    tensors = load_file(through / diffusers.FILE)

    assert state is not None and state[1].step == 3
    assert all(tensor.isfinite().all() for tensor in tensors.values())
    assert any(tensor.any() for name, tensor in tensors.items() if "lora_B" in name)


@pytest.mark.family("sample")
def test_it_draws(through: Path) -> None:
    assert len(list((through / "samples").glob("final-*"))) == 1
    assert (through / "sheet.png").exists()


@pytest.mark.family("cache")
def test_a_later_run_encodes_nothing_anew(case: Case, kept: dict[Path, int], resumed: Path) -> None:
    assert kept
    assert written(case) == kept


@pytest.mark.family("resume")
def test_a_stopped_run_goes_on_to_the_same_bytes(through: Path, resumed: Path) -> None:
    files = sorted(through.glob("*.safetensors"))
    assert files
    for file in files:
        assert (resumed / file.name).read_bytes() == file.read_bytes()


@pytest.mark.family("re-load, equal output")
def test_diffusers_computes_with_the_lora_what_the_run_computes(case: Case, through: Path) -> None:
    program = case.plan.program
    ours, _ = load(case.of, program, case.places(through), torch.device("cpu"))
    plain = losses(case.of, ours, program)
    trainee = adapt(case.of, ours, program)
    checkpoint.restore(through / "checkpoints" / "step-000003", trainee)
    mine = losses(case.of, ours, program)

    pipe = DiffusionPipeline.from_pretrained(case.base, torch_dtype=torch.float32)
    if hasattr(pipe, "load_lora_weights"):
        pipe.load_lora_weights(through, weight_name=diffusers.FILE)
    else:
        load_by_peft(getattr(pipe, case.of.BACKBONE), case.of.BACKBONE, through / diffusers.FILE)
    theirs = losses(case.of, {name: getattr(pipe, name) for name in case.of.COMPONENTS}, program)

    assert (mine - plain).abs().max() > 1e-4
    assert torch.allclose(mine, theirs, rtol=1e-4, atol=1e-5)


def load_by_peft(module: nn.Module, component: str, file: Path) -> None:
    """A LoRA in diffusers' names put on a component whose pipeline has no loader."""
    tensors = {name.removeprefix(f"{component}."): tensor for name, tensor in load_file(file).items()}
    names = sorted({name.rpartition(".lora_")[0] for name in tensors})
    inject_adapter_in_model(LoraConfig(r=4, lora_alpha=4, target_modules=names), module)
    set_peft_model_state_dict(module, tensors)


TERMS = (
    {"snr_gamma": 1e-3},
    {"debiased": True},
    {"noise_offset": 0.5},
    {"pyramid_iterations": 4, "pyramid_discount": 0.5},
    {"input_perturbation": 0.5},
    *(
        {"loss_type": "huber", "huber_c": 0.1, "huber_schedule": schedule}
        for schedule in ("constant", "exponential", "snr")
    ),
)
"""What a plan may ask of a loss and its noise."""


def test_every_term_that_a_plan_may_ask_for_changes_the_loss(case: Case, tmp_path: Path) -> None:
    """So that no family passes one over in silence."""
    program = case.plan.program
    modules, _ = load(case.of, program, case.places(tmp_path), torch.device("cpu"))
    plain = losses(case.of, modules, program)

    for term in TERMS:
        objective = attrs.evolve(program.train.objective, **term)
        if not wrong_objective(objective, program.data.kind, program.base.prediction_type):
            asked = attrs.evolve(program, train=attrs.evolve(program.train, objective=objective))
            assert not torch.allclose(losses(case.of, modules, asked), plain), term
    if program.data.kind == "images":
        side = case.of.example(program.base.architecture, 1, (case.of.GRID,) * 2, False)["latent_mean"].shape[
            -2:
        ]
        half = torch.tensor([0.5, 0.0]).view(2, 1, 1, 1).expand(2, 1, *side)
        masked = losses(case.of, modules, program, loss_mask=half)
        assert torch.allclose(masked, plain * torch.tensor([0.5, 0.0]))


def losses(of: Family, modules: Modules, program: plan.Program, **more: torch.Tensor) -> torch.Tensor:
    """The loss of two samples with fixed noise, without dropout; `more` is in the batch, too."""
    for module in modules.values():
        module.eval()
    generator = torch.Generator().manual_seed(0)
    batch: Batch = {
        name: torch.randn(tensor.shape, generator=generator) if tensor.is_floating_point() else tensor + 1
        for name, tensor in of.example(
            program.base.architecture, 2, plan.largest(program.data), False
        ).items()
    }
    drawn = [of.draw({n: t[i] for n, t in batch.items()}, generator, program.train.objective) for i in (0, 1)]
    batch |= {name: torch.stack([one[name] for one in drawn]) for name in drawn[0]}
    with torch.no_grad():
        return of.loss(modules, batch | more, program.base, program.train.objective)


@pytest.mark.family("export")
def test_its_files_name_every_module_once_and_the_manifest_says_who_loads_them(
    case: Case, through: Path
) -> None:
    files = {
        "webui": (through / "tiny.safetensors", "lora_down"),
        "diffusers": (through / diffusers.FILE, "lora_A"),
    }
    verdicts = json.loads((through / "tiny.lorac.json").read_text())["consumers"]

    for export, (file, part) in files.items():
        assert file.exists() == (export in case.of.EXPORTS)
        if file.exists():
            stems = {name.rpartition(f".{part}")[0] for name in load_file(file) if part in name}
            assert len(stems) == sum(case.plan.program.adapter.modules.values())
    pipeline = getattr(import_module("diffusers"), DiffusionPipeline.load_config(case.base)["_class_name"])
    (loads,) = (one["loads"] for one in verdicts if one["consumer"] == "diffusers")
    assert loads == ("loads" if hasattr(pipeline, "load_lora_weights") else "refuses")
