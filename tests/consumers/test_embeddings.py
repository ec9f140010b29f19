"""Words with vectors of their own, by each program's rules: what reaches the text encoder is what the run gave it.

diffusers is run itself, by the very lines that the manifest states.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file
from torch import Tensor

from lorac import Experiment, Fit, Images, LoRA, Outputs, TextualInversion
from lorac.estimate import cards
from lorac.resolve import resolve
from runtime import plan
from runtime.adapters import adapted
from runtime.adapters.words import UNKNOWN_END
from runtime.export.manifest import Manifest
from runtime.export.write import export
from runtime.families import family
from runtime.families.protocol import Family
from runtime.preflight import Where
from runtime.run import adapt, factors, load
from runtime.step import Trainee
from tests.consumers import embeddings
from tests.runtime.export import cases
from tests.runtime.plans import estimate

NAMES = ("sd1", "sd2", "sdxl")
ROWS = 3


@attrs.frozen
class Exported:
    """A base with a word's vectors, as a run would end with, and what was exported of it."""

    of: Family
    base: Path
    folder: Path
    manifest: Manifest
    trainee: Trainee
    known: dict[str, Any]
    plain: dict[str, Any]

    def given(self, encoder: str, prompt: str) -> Tensor:
        """What the text encoder is given for a prompt in the run: (tokens, width)."""
        ids = self.known[encoder](prompt, add_special_tokens=False).input_ids
        with torch.no_grad():
            found: Tensor = self.table(encoder)(torch.tensor(ids))
        return found

    def table(self, encoder: str) -> Any:
        return self.trainee.modules[encoder].get_submodule(
            self.trainee.program.adapter.word_embeddings[encoder]
        )

    def call(self, consumer: str) -> str:
        """What the manifest says of the word to a program."""
        return next(
            one.call
            for one in self.manifest.consumers
            if one.consumer.startswith(consumer) and one.file == "embeddings/style.safetensors"
        )


@pytest.fixture(scope="module", params=NAMES)
def made(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny_data: Path
) -> Exported:
    of, folder = family(request.param), tmp_path_factory.mktemp(request.param)
    base = of.tiny(folder / "base")
    for config in (
        base / encoder / "config.json" for encoder in of.WORD_FILES
    ):  # as the published ones have it
        config.write_text(json.dumps(json.loads(config.read_text()) | {"eos_token_id": UNKNOWN_END}))
    experiment = Experiment(
        name="style",  # as the word: their files do not meet
        base=str(base),
        data=Images(str(tiny_data), resolution=64),
        adapter=LoRA(rank=1, targets="re:.*attn2.to_k", words=(TextualInversion("style", vectors=ROWS),)),
        fit=Fit(card="cpu"),
        outputs=Outputs(dtype="fp32"),
    )
    resolved = resolve(experiment, folder, folder, cards.find("cpu"), False)
    of_plan = plan.make(resolved.program, resolved.outputs, estimate())
    where = Where(base=base, data=tiny_data, output=folder, log=folder, cache=folder)
    modules, known = load(of, of_plan.program, where, torch.device("cpu"))
    trainee = adapt(of, modules, of_plan.program)
    for module in modules.values():
        module.eval()
    with torch.no_grad():
        for encoder in of.WORD_FILES:
            for rows in adapted.parameters(modules[encoder]).values():
                rows.add_(torch.randn(rows.shape, generator=torch.Generator().manual_seed(3)))
    manifest = export(folder / "run", factors(trainee), of_plan, cases.facts(), [])
    plain = of.load_tokenizers(base, of_plan.program.base)
    return Exported(of, base, folder / "run", manifest, trainee, known, plain)


PROMPTS = ("a {}, on red cloth", "{}", "noise in {} {} on a hill")
BESIDE = ("{}-like, un-{} (noise)", "{}'s noise", "noises, {}s in {}2")
"""Prompts in which the word stands beside what is no letter, or is another word's beginning."""


@pytest.mark.parametrize("prompt", (*PROMPTS, *BESIDE))
def test_webui_and_forge_give_the_text_encoder_what_the_run_gives_it(made: Exported, prompt: str) -> None:
    name = made.call("Stable Diffusion WebUI").removeprefix("in the prompt: ")
    widths = {encoder: made.table(encoder).base_layer.embedding_dim for encoder in made.of.WORD_FILES}
    vectors = embeddings.webui(made.folder / "embeddings" / f"{name}.safetensors", widths)

    assert vectors.keys() == made.of.WORD_FILES.keys()
    assert made.call("Forge") == f"in the prompt: {name}"
    for encoder, rows in vectors.items():
        theirs = embeddings.webui_prompt(
            prompt.replace("{}", name), name, rows, made.plain[encoder], made.table(encoder).base_layer
        )
        ours = made.given(encoder, prompt.replace("{}", "style"))
        assert len(rows) == ROWS
        assert torch.equal(theirs, ours)


@pytest.mark.parametrize("prompt", PROMPTS)
def test_comfyui_gives_the_text_encoder_what_the_run_gives_it(made: Exported, prompt: str) -> None:
    called = made.call("ComfyUI").removeprefix("in the prompt: ")
    for encoder in made.of.WORD_FILES:
        theirs = embeddings.comfyui_prompt(
            prompt.replace("{}", called),
            made.folder / "embeddings",
            made.of.NAME,
            encoder,
            made.plain[encoder],
            made.table(encoder).base_layer,
        )
        assert torch.equal(theirs, made.given(encoder, prompt.replace("{}", "style")))


def test_diffusers_encodes_a_prompt_as_the_run_does(made: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(made.folder)
    pipe = DiffusionPipeline.from_pretrained(made.base, torch_dtype=torch.float32)
    for call in made.call("diffusers").split("; "):
        exec(call, {"pipe": pipe, "load_file": load_file})  # noqa: S102  (our own manifest's words)
    prompt = "a {}, on red cloth"

    with torch.no_grad():
        theirs = pipe.encode_prompt(
            prompt.replace("{}", "<style>"),
            device="cpu",
            num_images_per_prompt=1,
            do_classifier_free_guidance=False,
        )
        tokens = made.of.tokenize(made.known, [prompt.replace("{}", "style")])
        ours = made.of.encode_text(made.trainee.modules, tokens)
        before = made.of.encode_text(
            made.trainee.modules, made.of.tokenize(made.plain, ["a style, on red cloth"])
        )

    assert torch.allclose(theirs[0], ours["hidden"], atol=1e-5)
    if "pooled" in ours:
        assert torch.allclose(theirs[2], ours["pooled"], atol=1e-5)
    assert (ours["hidden"] - before["hidden"]).abs().max() > 1e-2


def test_the_lora_s_own_files_hold_nothing_of_it(made: Exported) -> None:
    assert not [
        key for key in load_file(made.folder / "style.safetensors") if not key.startswith("lora_unet_")
    ]
    assert not [
        key
        for key in load_file(made.folder / "pytorch_lora_weights.safetensors")
        if not key.startswith("unet.")
    ]
