"""Every method, end to end: planned, trained, resumed to the same bytes, and loaded by its readers to equal output."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from lorac import (
    IA3,
    Experiment,
    Fit,
    Images,
    Instructions,
    LoHa,
    LoKr,
    LoRA,
    Outputs,
    Sequences,
    Train,
    VeRA,
)
from lorac.compile import compile_experiment
from lorac.estimate import cards
from lorac.resolve import resolve
from runtime import checkpoint, plan, preflight
from runtime.adapters import METHODS
from runtime.errors import Interrupted, SpecError
from runtime.export.peft import FILE
from runtime.families import causal_lm, sd1
from runtime.preflight import Where
from runtime.run import Options, adapt, run
from tests import texts
from tests.consumers import a1111, comfyui
from tests.runtime.plans import estimate

CONVOLUTIONS = r".*(attn1\.to_q|resnets\.0\.conv1|proj_in|self_attn\.q_proj)"
DRAWN: dict[str, Any] = {
    "LoRA": LoRA(
        rank=4,
        alpha=3,
        ranks={r".*conv1": 2, r"down_blocks.*conv1": 1},
        alphas={r".*to_q": 5.5},
        rank_dropout=0.3,
        targets=f"re:{CONVOLUTIONS}",
        text_encoder=True,
    ),
    "rsLoRA": LoRA(rank=4, alpha=3, rslora=True, targets=f"re:{CONVOLUTIONS}"),
    "PiSSA": LoRA(rank=2, alpha=1, init="pissa", targets=f"re:{CONVOLUTIONS}"),
    "DoRA": LoRA(rank=2, dora=True, targets=f"re:{CONVOLUTIONS}", text_encoder=True),
    "LoHa": LoHa(rank=2, alpha=1, module_dropout=0.3, targets=f"re:{CONVOLUTIONS}"),
    "LoKr": LoKr(rank=2, alpha=1, rank_dropout=0.3, targets=f"re:{CONVOLUTIONS}"),
    "LoKr, second factor whole": LoKr(rank=16, alpha=1, factor=4, targets=f"re:{CONVOLUTIONS}"),
}
ASKED: dict[str, Any] = {
    "LoRA": LoRA(rank=4, alpha=3, ranks={r".*q_proj": 6}, dropout=0.2, module_dropout=0.2),
    "PiSSA": LoRA(rank=4, init="pissa", dropout=0.1),
    "LoHa": LoHa(rank=2, alpha=1, ranks={r".*q_proj": 3}),
    "LoKr": LoKr(rank=2, alpha=1),
    "VeRA": VeRA(rank=8, dropout=0.1),
    "IA3": IA3(),
}
PATTERNS = "ranks and alphas by pattern"
HAS_TOO = {
    ("A1111, ComfyUI", "LoRA"): ("LoRA on convolutions", f"LoRA, {PATTERNS}", "LoRA, the text encoder too"),
    ("A1111, ComfyUI", "DoRA"): ("DoRA, the text encoder too",),
    ("peft", "LoRA"): (f"LoRA, {PATTERNS}",),
}
"""(where, name) -> what else of LoRA is tried by it."""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random language model and a text, for all runs."""
    folder = tmp_path_factory.mktemp("every")
    causal_lm.tiny(folder / "base")
    texts.write(folder / "data.jsonl", texts.questions())
    return folder


TRACED = {"DoRA", "LoKr"}
"""Of pictures, those whose cost is estimated here, too: the layers of a language model's are all traced."""


def planned(adapter: Any, base: Path, data: Any, root: Path, traced: bool = True, **more: Any) -> plan.Plan:
    """Three steps of two samples."""
    experiment = Experiment(
        name="tiny",
        base=str(base),
        data=data,
        adapter=adapter,
        train=Train(effective_batch=2, steps=3, learning_rate=3e-2, scheduler="constant"),
        fit=Fit(card="cpu", dtype="fp32", threads=1, micro_batch=2, gradient_checkpointing=False),
        outputs=Outputs(dtype="fp32", save_steps=2),
        **more,
    )
    if traced:
        return compile_experiment(experiment, root, root, None, False)
    resolved = resolve(experiment, root, root, cards.find("cpu"), False)
    return plan.make(resolved.program, resolved.outputs, estimate())


def carried_out(of: plan.Plan, folder: Path, fault: Callable[[int], None] = lambda step: None) -> Path:
    """Run the plan in `folder`; where its files are."""
    output, given = folder / "tiny", of.outputs.places
    places = Where(
        base=Path(given.base),
        data=Path(given.data),
        output=output,
        log=output / "logs",
        cache=folder.parent / "cache",
    )
    preflight.check(of, places)
    return run(of, Options(where=places, fault=fault))


def twice(of: plan.Plan, folder: Path, file: str) -> Path:
    """Run the plan through, and again with a stop after its second step: both files are the same. The first's."""

    def stop(at: int) -> None:
        if at == 1:
            signal.raise_signal(signal.SIGINT)

    through = carried_out(of, folder / "through")
    with pytest.raises(Interrupted):
        carried_out(of, folder / "stopped", stop)
    resumed = carried_out(of, folder / "stopped")
    assert (resumed / file).read_bytes() == (through / file).read_bytes()
    return through


def test_every_method_of_the_registry_is_tried() -> None:
    assert {one.METHOD for one in (*DRAWN.values(), *ASKED.values())} == set(METHODS)


def shown(column: str, names: Iterable[str]) -> Iterator[Any]:
    """Each name as a parameter, marked for its row of docs/methods.md and for those of what it has beside."""
    for name in names:
        rows = (name, *HAS_TOO.get((column, name), ()))
        yield pytest.param(name, marks=[pytest.mark.method(column, row=row) for row in rows], id=name)


@pytest.mark.parametrize("name", list(shown("A1111, ComfyUI", DRAWN)))
def test_pictures_programs_change_their_base_as_was_trained(
    name: str, tiny_base: Path, tiny_data: Path, tmp_path: Path
) -> None:
    data = Images(str(tiny_data), resolution=64, buckets=False)
    of = planned(DRAWN[name], tiny_base, data, tmp_path, name in TRACED)
    folder = twice(of, tmp_path, "tiny.safetensors")

    trained = {c: sd1.load(tiny_base, of.program.base, c, torch.float32) for c in sd1.COMPONENTS}
    plain = {c: sd1.load(tiny_base, of.program.base, c, torch.float32) for c in sd1.COMPONENTS}
    ours = adapt(sd1, trained, of.program)  # type: ignore[arg-type]
    checkpoint.restore(folder / "checkpoints" / "step-000003", ours)
    wanted, before = output(trained), output(plain)
    assert (wanted - before).abs().max() > 1e-3
    bases = {(c, n): m.weight.detach() for c in plain for n, m in plain[c].named_modules() if _has_weight(m)}
    for consumer in (a1111, comfyui):
        loaded = consumer.load(folder / "tiny.safetensors", of.program.base.architecture, bases)
        assert loaded.left == []
        assert len(loaded.changes) == sum(of.program.adapter.modules.values())
        changed = {c: sd1.load(tiny_base, of.program.base, c, torch.float32) for c in sd1.COMPONENTS}
        with torch.no_grad():
            for (component, module), change in loaded.changes.items():
                weight = changed[component].get_submodule(module).weight
                weight += change.reshape(weight.shape)
        assert torch.allclose(output(changed), wanted, atol=1e-4), consumer.__name__


def _has_weight(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | nn.Conv2d)


def output(modules: dict[str, Any]) -> Tensor:
    """What the denoiser says of a noise and a prompt."""
    for module in modules.values():
        module.eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        hidden = sd1.encode_text(modules, {"tokens": torch.arange(77).reshape(1, 77)})["hidden"]
        latents = torch.randn((1, 4, 16, 16), generator=generator)
        said: Tensor = modules["unet"](latents, 500, encoder_hidden_states=hidden).sample
    return said


@pytest.mark.parametrize("name", list(shown("peft", ASKED)))
def test_peft_s_logits_are_ours(name: str, project: Path, tmp_path: Path) -> None:
    data = Instructions("data.jsonl")
    of = planned(ASKED[name], Path("base"), data, project, sequences=Sequences(length=64))
    places = attrs.evolve(of.outputs.places, base=str(project / "base"), data=str(project))
    of = attrs.evolve(of, outputs=attrs.evolve(of.outputs, places=places))
    folder = twice(of, tmp_path, FILE)

    ours = adapt(causal_lm, {"model": base(project)}, of.program)  # type: ignore[arg-type]
    checkpoint.restore(folder / "checkpoints" / "step-000003", ours)
    tokens = torch.arange(40).reshape(2, 20)
    with torch.no_grad():
        mine = ours.modules["model"].eval()(tokens).logits
        theirs = PeftModel.from_pretrained(base(project), folder).eval()(tokens).logits
        plain = base(project)(tokens).logits
    assert (mine - plain).abs().max() > 1e-3
    assert torch.allclose(mine, theirs, atol=1e-5)


def base(project: Path) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(project / "base", dtype=torch.float32).eval()


@pytest.mark.parametrize("adapter", [VeRA(), IA3()], ids=["vera", "ia3"])
def test_a_method_that_no_reader_of_the_family_takes_is_refused(
    adapter: Any, tiny_base: Path, tiny_data: Path, tmp_path: Path
) -> None:
    adapter = attrs.evolve(adapter, targets="re:.*to_q")
    with pytest.raises(SpecError, match=r"no program reads a Stable Diffusion 1\.x's"):
        planned(adapter, tiny_base, Images(str(tiny_data), resolution=64), tmp_path)
