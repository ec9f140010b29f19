"""The YAML of the LoRA trainer that lorac follows: plain keys, alone or in sections for model, data, lora and training.

Its keys: docs of this project, issue 3 ("everything a peer's YAML says must be sayable").
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lorac.importers import optimizers, words
from lorac.importers.kohya_keys import optional
from lorac.importers.ledger import (
    CannotCarry,
    Draft,
    Ours,
    Path,
    Table,
    To,
    Unless,
    bare,
    is_on,
    ledger,
)

TITLE = "the original's YAML"

SECTIONS: dict[str, dict[str, str]] = {
    "model": {
        "name": "base_model",
        "path": "base_model",
        "base": "base_model",
        "pretrained_model": "base_model",
    },
    "data": {
        "path": "train_data_dir",
        "dir": "train_data_dir",
        "train_dir": "train_data_dir",
        "metadata": "metadata_path",
    },
    "lora": {
        **{"rank": "lora_rank", "r": "lora_rank", "alpha": "lora_alpha", "dropout": "lora_dropout"},
        **{"init": "init_lora_weights", "initialization": "init_lora_weights"},
    },
    "training": {"lr": "learning_rate", "grad_clip": "max_grad_norm", "num_epochs": "epochs"},
    "output": {"dir": "output_dir"},
    "logging": {"dir": "log_dir"},
}
"""Short names inside a section; `train` stands for `training`."""

ALIASES = {
    "pretrained_model_name_or_path": "base_model",
    "num_train_epochs": "epochs",
    "num_epochs": "epochs",
    "max_train_steps": "max_steps",
    "steps": "max_steps",
    "train_batch_size": "batch_size",
    "lr": "learning_rate",
    "lr_scheduler": "scheduler",
    "lr_warmup_steps": "warmup_steps",
    "gradient_clipping": "max_grad_norm",
    "max_gradient_norm": "max_grad_norm",
    "logging_dir": "log_dir",
    "save_every": "save_steps",
    "experiment_name": "name",
    "output_name": "name",
}

TARGETS = (
    ({"to_q", "to_k", "to_v"}, "qkv"),
    ({"to_q", "to_k", "to_v", "to_out.0"}, "qkvo"),
    ({"to_q", "to_k", "to_v", "to_out"}, "qkvo"),
    ({"q", "k", "v"}, "qkv"),
    ({"to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2"}, "qkvo+ff"),
)


def _targets(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        for names, preset in TARGETS:
            if set(map(str, value)) == names:
                return preset
    raise CannotCarry("adapter.targets has qkv, qkvo, qkvo+ff, qkvo+ff+conv, or a regex of whole names")


def _init(value: Any) -> str:
    name = str(value).lower()
    if name in ("true", "kaiming", "kaiming_uniform", "default"):
        return "kaiming"
    if name in ("gaussian", "normal"):
        return "gaussian"
    raise CannotCarry("adapter.init is kaiming or gaussian")


TABLE: Table = {
    "name": To("name"),
    "base_model": To("base.path"),
    "train_data_dir": To("data.path"),
    "metadata_path": To("data.metadata_path"),
    "resolution": To("data.resolution", words.side),
    "trigger_word": To("data.trigger"),
    "random_flip": To("data.flip", is_on),
    "caption_dropout": To("data.caption_dropout"),
    "lora_rank": To("adapter.rank"),
    "lora_alpha": To("adapter.alpha"),
    "lora_dropout": optional("adapter.dropout"),
    "target_modules": To("adapter.targets", _targets),
    "init_lora_weights": To("adapter.init", _init),
    "lora_init": To("adapter.init", _init),
    "train_text_encoder": To("adapter.text_encoder", is_on),
    "text_encoder_lr": To("train.text_encoder_learning_rate"),
    "epochs": To("train.epochs"),
    "max_steps": To("train.steps"),
    "learning_rate": To("train.learning_rate"),
    "scheduler": To("train.scheduler", words.scheduler),
    "warmup_steps": To("train.warmup_steps"),
    "weight_decay": To("train.optimizer.weight_decay"),
    "adam_beta1": To("train.optimizer.beta1"),
    "adam_beta2": To("train.optimizer.beta2"),
    "adam_epsilon": To("train.optimizer.eps"),
    "max_grad_norm": To("train.max_grad_norm"),
    "seed": To("train.seed"),
    "snr_gamma": optional("train.snr_gamma"),
    "noise_offset": To("train.noise_offset"),
    "gradient_checkpointing": Ours(words.PLANNER),
    "mixed_precision": To("fit.dtype", words.dtype),
    "use_8bit_adam": Unless("set fit.optimizer_bits=8"),
    "xformers": Ours(words.ATTENTION),
    "enable_xformers": Ours(words.ATTENTION),
    "cache_latents": Ours(words.CACHED),
    "num_workers": Ours(words.LOADING),
    "dataloader_num_workers": Ours(words.LOADING),
    "output_dir": To("outputs.output_dir"),
    "log_dir": To("outputs.log_dir"),
    "save_steps": optional("outputs.save_steps"),
    "device": Ours("lorac takes the card that fit.card names"),
}


def recognise(config: Any) -> bool:
    if not isinstance(config, Mapping) or {"model_family", "network_module", "stage", "adapter"} & set(
        config
    ):
        return False
    names = {_name(path) for path in ledger(config).entries}
    return "lora_rank" in names and bool(names & {"base_model", "train_data_dir"})


def companions(config: Any) -> dict[str, str]:
    return {}


def convert(config: Any, companions: Mapping[str, Any]) -> Draft:
    book = ledger(config)
    keys = {_name(path): path for path in reversed(book.entries)}
    batch = [keys[name] for name in ("batch_size", "gradient_accumulation_steps") if name in keys]
    if batch:
        words.set_batch(book, batch, "")
    if name := keys.get("optimizer"):
        optimizers.carry(book, name, book.entries[name], ())
    if (epochs := keys.get("epochs")) and (steps := keys.get("max_steps")) and is_on(book.entries[steps]):
        book.ours(epochs, f"{steps[-1]} ends the training")
    book.settle(TABLE, _name)
    return book.draft()


def _name(path: Path) -> str:
    """The key's full name, whether it stands alone or in a section."""
    key = bare(path)
    section = str(path[0]).removesuffix("s") if len(path) > 1 else ""
    within = SECTIONS.get({"train": "training"}.get(section, section), {})
    key = within.get(key, key)
    return ALIASES.get(key, key)
