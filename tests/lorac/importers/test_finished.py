"""A spec from a finished LoRA: ours, kohya's, and one that says nothing."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest
import torch

from lorac import IA3, LoHa, LoKr, TextualInversion, VeRA
from lorac.importers.importing import import_file
from lorac.load import load
from runtime import plan
from runtime.errors import InputError
from runtime.export import metadata
from runtime.safeio import safetensors
from tests import texts
from tests.lorac.plans import OUTPUTS, PROGRAM, a_plan

ATTENTION = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
OUT = ATTENTION.replace("to_q", "to_out_0")
TEXT = "lora_te_text_model_encoder_layers_0_self_attn_q_proj"


def tensors(*modules: str, rank: int = 16) -> dict[str, torch.Tensor]:
    made = {}
    for module in modules:
        made[f"{module}.lora_down.weight"] = torch.zeros(rank, 4)
        made[f"{module}.lora_up.weight"] = torch.zeros(4, rank)
        made[f"{module}.alpha"] = torch.tensor(8.0)
    return made


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_ours_gives_back_what_decided_the_training(folder: Path) -> None:
    train = attrs.evolve(PROGRAM.train, learning_rate=3e-4, seed=9, steps=700)
    base = attrs.evolve(PROGRAM.base, architecture={"scheduler": {plan.ZERO_SNR: True}})
    program = attrs.evolve(PROGRAM, train=train, base=base)
    outputs = attrs.evolve(OUTPUTS, name="cats", trigger="cat style", tags=("a", "b"), author="me")
    made_by = a_plan(program=program, outputs=outputs)
    weights = tensors(ATTENTION, OUT)
    safetensors.write("x.safetensors", weights, metadata.complete(made_by, weights, "cats", 700, ""))
    imported = import_file(Path("x.safetensors"))
    (one,) = load(imported.path)
    made = one.experiment
    assert (made.name, made.base.family, made.base.prediction_type) == ("cats", "sd1", "epsilon")
    assert made.base.zero_terminal_snr is True
    assert (made.adapter.rank, made.adapter.alpha) == (program.adapter.rank, program.adapter.alpha)
    assert (made.adapter.targets, made.adapter.text_encoder) == ("qkvo", False)
    assert (made.train.learning_rate, made.train.seed, made.train.steps) == (3e-4, 9, 700)
    assert made.train.effective_batch == train.effective_batch
    assert made.train.scheduler == train.schedule.name
    assert made.train.optimizer.weight_decay == train.optimizer.weight_decay
    assert made.data.trigger == "cat style"  # type: ignore[union-attr]
    assert (made.outputs.tags, made.outputs.author) == (("a", "b"), "me")
    assert imported.draft.of("left") == []
    assert any(made_by.program.base.digest[:12] in line for line in imported.draft.todo)


def test_the_plan_beside_ours_says_the_rest_and_another_plan_says_nothing(folder: Path) -> None:
    curve = plan.Schedule(
        name="warmup_stable_decay", warmup_steps=3, power=1.0, decay_steps=50, min_ratio=0.1
    )
    program = attrs.evolve(
        PROGRAM,
        base=attrs.evolve(PROGRAM.base, clip_skip=2),
        adapter=attrs.evolve(PROGRAM.adapter, init="gaussian"),
        train=attrs.evolve(PROGRAM.train, schedule=curve, steps=700),
    )
    made = a_plan(program=program, outputs=attrs.evolve(OUTPUTS, name="cats", description="cats\nand more"))
    weights = tensors(ATTENTION, OUT)
    safetensors.write("x.safetensors", weights, metadata.complete(made, weights, "cats", 700, ""))
    plan.write(made, Path("plan.json"))
    (one,) = load(import_file(Path("x.safetensors")).path)
    assert (one.experiment.adapter.init, one.experiment.outputs.description) == ("gaussian", "cats\nand more")
    train = one.experiment.train
    assert (train.scheduler, train.decay_steps, train.min_ratio) == ("warmup_stable_decay", 50, 0.1)
    assert one.experiment.base.clip_skip == 2
    assert one.experiment.base.path == "../" + made.outputs.places.base
    plan.write(a_plan(program=attrs.evolve(program, locked=False)), Path("plan.json"))
    (two,) = load(import_file(Path("x.safetensors"), Path("two.py")).path)
    assert two.experiment.adapter.init == "kaiming"


@pytest.mark.parametrize("whole", [("embeddings", "lm_head"), ()])
def test_the_plan_beside_ours_says_what_is_trained_whole(
    folder: Path, tiny_lm: Path, tiny_text: Path, whole: tuple[str, ...]
) -> None:
    made = texts.planned(tiny_lm, tiny_text, folder, also_train=whole)
    name = "base_model.model.model.layers.0.self_attn.q_proj"
    weights = {f"{name}.lora_A.weight": torch.zeros(4, 8), f"{name}.lora_B.weight": torch.zeros(8, 4)}
    safetensors.write("x.safetensors", weights, metadata.origin(made))
    plan.write(made, Path("plan.json"))

    (one,) = load(import_file(Path("x.safetensors")).path)

    assert one.experiment.adapter.also_train == whole


LOHA = {
    part: (4, 16) if part.endswith("a") else (16, 4)
    for part in ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
}
LOKR = {"lokr_w1": (2, 2), "lokr_w2_a": (4, 16), "lokr_w2_b": (16, 4)}


@pytest.mark.parametrize(
    ("method", "parts", "expected"),
    [("loha", LOHA, LoHa(rank=16, alpha=16)), ("lokr", LOKR, LoKr(rank=16, alpha=16, factor=4))],
)
def test_other_methods_of_pictures_are_known_by_their_tensors_and_by_the_plan(
    folder: Path, method: str, parts: dict[str, tuple[int, int]], expected: LoHa | LoKr
) -> None:
    adapter = attrs.evolve(PROGRAM.adapter, method=method, factor=getattr(expected, "factor", -1))
    made = a_plan(program=attrs.evolve(PROGRAM, adapter=adapter))
    weights = {
        f"{one}.{part}": torch.zeros(shape) for one in (ATTENTION, OUT) for part, shape in parts.items()
    }
    safetensors.write("x.safetensors", weights, metadata.complete(made, weights, "cats", 700, ""))

    (alone,) = load(import_file(Path("x.safetensors"), Path("one.py")).path)
    plan.write(made, Path("plan.json"))
    (with_plan,) = load(import_file(Path("x.safetensors"), Path("two.py")).path)

    assert type(alone.experiment.adapter) is type(expected)
    assert (alone.experiment.adapter.rank, alone.experiment.adapter.targets) == (16, "qkvo")
    assert with_plan.experiment.adapter == attrs.evolve(expected, targets="qkvo")


@pytest.mark.parametrize(
    ("method", "parts", "kind"),
    [("vera", {"vera_lambda_b": 4, "vera_lambda_d": 64}, VeRA), ("ia3", {"ia3_l": 4}, IA3)],
)
def test_other_methods_of_language_models_are_too(
    folder: Path, method: str, parts: dict[str, int], kind: type
) -> None:
    name = "base_model.model.model.layers.0.self_attn.q_proj"
    weights = {f"{name}.{part}": torch.zeros(size) for part, size in parts.items()}
    adapter = attrs.evolve(PROGRAM.adapter, method=method, rank=64 if method == "vera" else 0)
    made = a_plan(program=attrs.evolve(PROGRAM, adapter=adapter))
    safetensors.write("x.safetensors", weights, metadata.origin(made))

    (one,) = load(import_file(Path("x.safetensors")).path)

    assert type(one.experiment.adapter) is kind
    assert getattr(one.experiment.adapter, "rank", 64) == 64


@pytest.mark.parametrize("count", [1, 2])
def test_the_plan_beside_ours_says_which_words_have_vectors(folder: Path, count: int) -> None:
    words = (
        plan.Word(word="<crest>", initial="crest", vectors=1, learning_rate=PROGRAM.train.learning_rate),
        plan.Word(word="mark", initial="a sign", vectors=3, learning_rate=1e-3),
    )[:count]
    adapter = attrs.evolve(PROGRAM.adapter, words=words, word_embeddings={"text_encoder": "a.b"})
    made = a_plan(program=attrs.evolve(PROGRAM, adapter=adapter))
    weights = tensors(ATTENTION, OUT)
    safetensors.write("x.safetensors", weights, metadata.complete(made, weights, "cats", 700, ""))
    plan.write(made, Path("plan.json"))

    (one,) = load(import_file(Path("x.safetensors")).path)

    expected = (
        TextualInversion("<crest>"),
        TextualInversion("mark", initial="a sign", vectors=3, learning_rate=1e-3),
    )
    assert one.experiment.adapter.words == expected[:count]


def test_kohyas_as_far_as_it_goes(folder: Path) -> None:
    said = {
        "ss_output_name": "cats",
        "ss_network_module": "networks.lora",
        "ss_network_dim": "8",
        "ss_network_alpha": "4.0",
        "ss_learning_rate": "2e-06",
        "ss_unet_lr": "0.0001",
        "ss_text_encoder_lr": "None",
        "ss_optimizer": "bitsandbytes.optim.adamw.AdamW8bit(weight_decay=0.1,betas=(0.9, 0.95))",
        "ss_max_train_steps": "1600",
        "ss_lr_scheduler": "cosine_with_restarts",
        "ss_clip_skip": "2",
        "ss_min_snr_gamma": "5.0",
        "ss_seed": "1234",
        "ss_resolution": "(512, 512)",
        "ss_base_model_version": "sd_v1",
        "ss_dataset_dirs": '{"10_cat": {"n_repeats": 10, "img_count": 30}}',
        "ss_made_up": "1",
    }
    safetensors.write("k.safetensors", tensors(ATTENTION, TEXT, rank=8), said)
    imported = import_file(Path("k.safetensors"))
    (one,) = load(imported.path)
    made = one.experiment
    assert (made.adapter.rank, made.adapter.alpha, made.adapter.text_encoder) == (8, 4.0, True)
    assert (made.train.learning_rate, made.train.snr_gamma, made.train.seed) == (1e-4, 5.0, 1234)
    assert (made.fit.optimizer_bits, made.train.optimizer.beta2) == (8, 0.95)
    left = {fate.key for fate in imported.draft.of("left")}
    assert left == {"ss_made_up"}
    assert (made.base.clip_skip, made.train.scheduler) == (2, "cosine_with_restarts")
    assert any(
        line.startswith("train.scheduler: the header has its name alone") for line in imported.draft.todo
    )
    assert any("10_cat (30 pictures)" in line for line in imported.draft.todo)


def test_one_without_metadata_still_says_its_rank(folder: Path) -> None:
    safetensors.write("plain.safetensors", tensors(ATTENTION, rank=4))
    imported = import_file(Path("plain.safetensors"))
    (one,) = load(imported.path)
    assert (one.experiment.name, one.experiment.adapter.rank, one.experiment.adapter.targets) == (
        "plain",
        4,
        "qkv",
    )


def test_what_is_no_lora_is_refused(folder: Path) -> None:
    safetensors.write("base.safetensors", {"model.weight": torch.zeros(2)})
    with pytest.raises(InputError, match="holds no adapter"):
        import_file(Path("base.safetensors"))


def test_hostile_metadata_becomes_no_code(folder: Path) -> None:
    said = {
        "ss_output_name": '"""\nimport os\n',
        "ss_training_comment": "x\n)\nopen('pwned', 'w')",
        "a\nb": "c\nd",
    }
    safetensors.write("h.safetensors", tensors(ATTENTION), said)
    load(import_file(Path("h.safetensors")).path)
    assert not Path("pwned").exists()
