"""Causal language models, whatever AutoModelForCausalLM makes, from one file; tests train eleven architectures.

What differs between them is read from the model itself: its blocks from the class names that transformers never splits,
its linear layers from their types, its head from `get_output_embeddings`, the bending of its logits from its config.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, LlamaConfig, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

from runtime import plan
from runtime.errors import InputError, Problem, SpecError
from runtime.families import gguf, published_models
from runtime.families.parts import Part
from runtime.families.protocol import Architecture, Batch, Modules, Shapes
from runtime.text.cross_entropy import Head, Targets, loss_sums

NAME = "causal_lm"
TITLE = "language model"
KIND = "text"
EXPORTS = ("peft", "gguf")
BACKBONE = "model"
COMPONENTS = ("model",)
TEXT_ENCODERS: tuple[str, ...] = ()
TRAINED_TEXT_ENCODERS: tuple[str, ...] = ()
WORD_FILES: dict[str, str] = {}
CLIP_SKIP = ""
BESIDE: tuple[str, ...] = ()
PARTS: dict[str, Part] = {}
STREAMED: dict[str, plan.Dtype] = {}
OBJECTIVE: dict[str, Any] = {}

ONE_GRAPH = frozenset({"llama", "mistral", "qwen2", "qwen3", "gemma2", "phi3", "glm", "cohere"})
"""Whose blocks torch compiles whole (`runtime.compiled`), as tests show; others were not tried."""

PRESETS = {"all-linear": "", "attention": ""}
"""All linear layers of the blocks (Dettmers et al. 2023, QLoRA: what full quality takes), or attention's alone."""

ATTENTION = re.compile(r".*(attn|attention).*", re.IGNORECASE)

ALIKE, ALIKE_IN_16_BITS = 1e-3, 0.05
"""How near two ways to take a loss come: in sixteen bits a capped logit near 30 is rounded to its eighth."""

ROUTERS = re.compile(r".*(router|[._]gate)")
"""A mixture's router is no layer to adapt: its output chooses experts, or weighs the shared one (Qwen2-MoE)."""


# ------------------------------------------------------------------------------------------------------ recognising


def recognise(shapes: Shapes) -> bool:
    return False


def recognise_folder(index: dict[str, Any], configs: dict[str, Any]) -> bool:
    return False


def recognise_config(config: dict[str, Any]) -> bool:
    """Whether a Transformers folder's config.json, or the config that a GGUF file amounts to, is a causal model's."""
    names = config.get("architectures") or []
    return (
        any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in names) or "architectures" not in config
    )


def published(name: str = "") -> Architecture:
    """A published architecture by name. Raises SpecError for one that is not known."""
    known = published_models.CONFIGS
    if name not in known:
        hint = f"name one: Base(…, published=…): {', '.join(sorted(known))}"
        raise SpecError(Problem("base.published", f"there is no published architecture {name!r}", hint))
    return {"model": copy.deepcopy(known[name])}


def prediction_type(architecture: Architecture) -> plan.PredictionType:
    return "next_token"


# ---------------------------------------------------------------------------------------------- building and loading


def config_of(architecture: Architecture) -> Any:
    """transformers' config of the model."""
    fields = {key: value for key, value in architecture["model"].items() if key != "quantization_config"}
    return AutoConfig.for_model(**fields)


def build(architecture: Architecture, component: str) -> Any:
    config = config_of(architecture)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.get_default_dtype())
    return model.eval()


def load(path: Path, base: plan.Base, component: str, dtype: torch.dtype) -> nn.Module:
    if base.layout == "gguf":
        return gguf.load(path, config_of(base.architecture), dtype).eval()
    disable_progress_bar()  # the variable that `families` sets comes too late where transformers was imported before
    try:
        model = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=base.remote_code,
        )
    except (OSError, ValueError) as error:
        what = " ".join(str(error).split())[:300]
        hint = "a Transformers folder has config.json, its weights as .safetensors and a tokenizer"
        raise InputError(Problem(str(path), f"cannot be loaded: {what}", hint)) from None
    return model.eval()


def load_tokenizers(path: Path, base: plan.Base) -> dict[str, Any]:
    if base.layout == "gguf":
        return {"model": gguf.tokenizer(path)}
    try:
        made = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=base.remote_code)
    except (OSError, ValueError) as error:
        what = f"its tokenizer cannot be loaded: {' '.join(str(error).split())[:200]}"
        raise InputError(
            Problem(str(path), what, "put the base's tokenizer files beside its weights")
        ) from None
    return {"model": made}


# --------------------------------------------------------------------------------------------------------- training


def targets(architecture: Architecture, preset: str, text_encoder: bool) -> dict[str, str]:
    with torch.device("meta"):
        model = build(architecture, "model")
    if preset.startswith("re:"):
        _, output = _ends(model)
        if output and re.fullmatch(preset[3:], output):
            what = f"matches the head ({output}), whose loss is taken in chunks, past any adapter on it"
            hint = 'keep it out of the expression; to train it whole: LoRA(also_train=("lm_head",))'
            raise SpecError(Problem("adapter.targets", what, hint))
        return {"model": preset[3:]}
    leaves = {
        name.rpartition(".")[2]
        for prefix, block in blocks({"model": model}).items()
        for name in _linears(block, prefix.removeprefix("model."))
        if preset == "all-linear" or ATTENTION.fullmatch(name)
    }
    inner = "|".join(sorted(map(re.escape, leaves)))
    where = r"(?:.*(?:attn|attention).*\.)" if preset == "attention" else r"(?:.*\.)"
    stem = re.escape(_stem(model))
    return {"model": rf"{stem}\.\d+\.{where}?(?:{inner})"}


def modules_to_save(architecture: Architecture, wanted: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The paths of the token embeddings and the head; both for the embeddings of a base that ties them.

    Raises SpecError for the head of such a base alone.
    """
    with torch.device("meta"):
        model = build(architecture, "model")
    paths = dict(zip(("embeddings", "lm_head"), _ends(model), strict=True))
    if model.get_output_embeddings().weight is not model.get_input_embeddings().weight:
        return {"model": tuple(path for word, path in paths.items() if word in wanted)}
    if "embeddings" not in wanted:
        what = "asks for lm_head alone, which this base ties to its embeddings: they are one weight"
        raise SpecError(Problem("adapter.also_train", what, 'also_train=("embeddings",) trains it'))
    return {"model": tuple(paths.values())}


def _ends(model: Any) -> tuple[str, str]:
    """The paths of the token embeddings and of the head."""
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    paths = {id(module): name for name, module in model.named_modules()}
    return paths[id(ends[0])], paths[id(ends[1])]


def _linears(block: nn.Module, prefix: str) -> list[str]:
    return [
        f"{prefix}.{name}"
        for name, module in block.named_modules()
        if (isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D")
        and not ROUTERS.fullmatch(f".{name}")
    ]


def _stem(model: Any) -> str:
    """The path of the list of blocks: "model.layers"."""
    kinds = set(model._no_split_modules or ())
    lists = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and any(type(child).__name__ in kinds for child in module)
    ]
    if not lists:  # an architecture that names no class: the longest list is that of the blocks
        lists = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.ModuleList)]
    return max(lists, key=lambda pair: len(pair[1]))[0]


def blocks(modules: Modules) -> dict[str, nn.Module]:
    if "model" not in modules:
        return {}
    model = modules["model"]
    stem = _stem(model)
    return {f"model.{stem}.{at}": block for at, block in enumerate(model.get_submodule(stem))}


def example(architecture: Architecture, size: int, shape: plan.Shape, tokens: bool) -> Batch:
    """Every token of every sequence is trained: the most that a batch of this shape can take."""
    (length,) = shape
    count = size * (length - 1)
    return {
        "input_ids": torch.zeros(size, length, dtype=torch.long),
        "position_ids": torch.zeros(size, length, dtype=torch.long),
        "places": torch.zeros(count, dtype=torch.long),
        "tokens": torch.zeros(count, dtype=torch.long),
        "rows": torch.zeros(count, dtype=torch.long),
    }


def loss(modules: Modules, batch: Batch, base: plan.Base, objective: plan.Objective) -> Tensor:
    """The sum of each sequence's cross-entropies over its trained tokens, in nats."""
    model = modules["model"]
    hidden = model.base_model(**_given(batch)).last_hidden_state
    targets = Targets(
        places=batch["places"],
        tokens=batch["tokens"],
        samples=batch["rows"],
        count=batch["input_ids"].shape[0],
    )
    return loss_sums(hidden, head(model), targets)


def _given(batch: Batch) -> dict[str, Any]:
    """What of a batch the model itself is called with; no cache, or packed samples would see each other."""
    names = ("input_ids", "position_ids", "attention_mask")
    return {"use_cache": False, **{name: batch[name] for name in names if name in batch}}


def check_loss(modules: Modules, batch: Batch, of: plan.Program, where: str) -> None:
    """Raise InputError where the loss of a short batch is not that of the model's own logits: its head then bends them
    in a way that `head` does not know."""
    model = modules["model"]
    with torch.no_grad():
        logits = model(**_given(batch)).logits.flatten(0, 1)[batch["places"]].float()
        theirs = F.cross_entropy(logits, batch["tokens"]).item()
        ours = loss(modules, batch, of.base, of.train.objective).sum().item() / len(batch["tokens"])
    if not math.isclose(ours, theirs, rel_tol=ALIKE if of.compute.dtype == "fp32" else ALIKE_IN_16_BITS):
        what = f"its logits give a loss of {theirs:.4f} a token, lorac's own loss is {ours:.4f}"
        hint = f"lorac does not know what the head of {model.config.model_type} does to logits: take another base"
        raise InputError(Problem(where, what, hint))


def head(model: Any) -> Head:
    """The model's last layer and how it bends logits."""
    config, last = model.config, model.get_output_embeddings()
    scale = getattr(config, "logit_scale", None) or 1.0  # Cohere
    scale /= getattr(config, "logits_scaling", None) or 1.0  # Granite
    return Head(
        weight=last.weight,
        bias=getattr(last, "bias", None),
        scale=float(scale),
        softcap=float(getattr(config, "final_logit_softcapping", None) or 0.0),  # Gemma 2
    )


# ----------------------------------------------------------------------------------------------------------- naming


def export_name(component: str, module: str) -> str:
    return module


def metadata(base: plan.Base) -> dict[str, str]:
    return {}


# ------------------------------------------------------------------------------------------------------------- tiny

TINY: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 256,
    "eos_token_id": 257,
    "pad_token_id": 258,
}


def tiny(folder: Path, config: Any = None) -> Path:
    """A random Llama of some kB, or a model of the given config, with a tokenizer of bytes and ChatML's template."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config or LlamaConfig(**TINY, tie_word_embeddings=True))
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, 0 to 255, then <|im_start|>, <|im_end|> and <pad>."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    from runtime.text.render import named_template

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE(vocab={char: at for at, char in enumerate(alphabet)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<pad>",
        chat_template=named_template("chatml"),
    )
