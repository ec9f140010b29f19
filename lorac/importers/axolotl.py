"""axolotl's YAML. Names and defaults: src/axolotl/utils/schemas/*.py at 067b021."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lorac.importers import optimizers, words
from lorac.importers.kohya_keys import optional, switch
from lorac.importers.ledger import (
    OFF,
    CannotCarry,
    Draft,
    IsOurs,
    Ledger,
    Ours,
    Path,
    Table,
    To,
    Unless,
    is_off,
    is_on,
    ledger,
    outermost,
    whole,
)
from lorac.spec import Conversations, Instructions, Text

TITLE = "axolotl's YAML"

EVALUATION = "lorac measures on what sequences.held_out leaves out, at each checkpoint"
FASTER = "how fast a step runs; the trained result is the same"
TEMPLATES = {
    "llama3": "llama3",
    "chatml": "chatml",
    "gemma": "gemma",
    "gemma3": "gemma",
    "mistral_v1": "mistral",
}
TEMPLATES |= {"phi_3": "phi3", "tokenizer_default": "base", "tokenizer_default_fallback_chatml": "base"}


def _template(value: Any) -> str:
    if str(value) in TEMPLATES:
        return TEMPLATES[str(value)]
    raise CannotCarry(f"lorac has {', '.join(sorted(set(TEMPLATES.values())))}; the base's own stands")


def _each_part(value: Any) -> float:
    """So many an epoch, as a part of one."""
    if is_off(value, OFF):
        raise IsOurs("at the end only, as in lorac")
    return 1 / whole(value)


TABLE: Table = {
    "base_model": To("base.path"),
    "trust_remote_code": Unless(
        "it would run a base's own Python: read that first, then set base.trust_remote_code"
    ),
    "model_type": Ours("the base's own files say it"),
    "tokenizer_type": Ours("the base's own files say it"),
    "processor_type": Ours("the base's own files say it"),
    "is_llama_derived_model": Ours("the base's own files say it"),
    "tokenizer_use_mistral_common": Unless("lorac takes the base's own tokenizer"),
    "revision_of_model": Unless(words.HUB),
    "adapter": Unless("lorac trains LoRAs", off=("lora", "qlora"), same="a LoRA"),
    "lora_model_dir": Unless("lorac begins an adapter anew"),
    "lora_r": To("adapter.rank"),
    "lora_alpha": To("adapter.alpha"),
    "lora_dropout": optional("adapter.dropout"),
    "lora_fan_in_fan_out": Ours("the base's own layers say it"),
    "lora_modules_to_save": To("adapter.also_train", words.also_train),
    "lora_target_parameters": Unless("lorac adapts linear layers"),
    "peft_use_dora": switch("adapter.dora"),
    "peft_use_rslora": switch("adapter.rslora"),
    "loraplus_lr_ratio": optional("train.lora_plus_ratio"),
    **dict.fromkeys(("lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel", "use_kernels"), Ours(FASTER)),
    "sequence_len": To("sequences.length"),
    "sample_packing": To("sequences.packing", is_on),
    "eval_sample_packing": Ours(EVALUATION),
    "pad_to_sequence_len": Ours("lorac pads to the longest, or packs"),
    "train_on_inputs": Unless("lorac trains the answers alone"),
    "group_by_length": Unless("lorac draws samples in an order of its own"),
    "chat_template": To("sequences.template", _template),
    "special_tokens": Unless("lorac takes the base's own tokens"),
    "tokens": Unless("lorac takes the base's own tokens"),
    "eot_tokens": Unless("the base's own template says where a turn ends"),
    "val_set_size": To("sequences.held_out"),
    "dataset_prepared_path": Ours("lorac's cache goes by contents"),
    "dataset_processes": Ours(words.LOADING),
    "skip_prepare_dataset": Ours("lorac's cache goes by contents"),
    "remove_unused_columns": Ours("lorac reads the columns that it needs"),
    "shuffle_merged_datasets": Ours("lorac shuffles by train.seed"),
    "test_datasets": Unless("lorac holds out a share: sequences.held_out"),
    "num_epochs": To("train.epochs"),
    "learning_rate": To("train.learning_rate"),
    "lr_scheduler": To("train.scheduler", words.scheduler),
    "cosine_min_lr_ratio": optional("train.min_ratio"),
    "lr_scheduler_kwargs": Unless("its curve has no such number in lorac"),
    "warmup_steps": To("train.warmup_steps"),
    "weight_decay": To("train.optimizer.weight_decay"),
    "adam_beta1": To("train.optimizer.beta1"),
    "adam_beta2": To("train.optimizer.beta2"),
    "adam_epsilon": To("train.optimizer.eps"),
    "max_grad_norm": To("train.max_grad_norm"),
    "seed": To("train.seed"),
    "rl": Unless("lorac has no other training than LoRA on next tokens"),
    "neftune_noise_alpha": optional("train.neftune_alpha"),
    "fp16": Unless("set fit.dtype"),
    "tf32": Ours("lorac's step has one dtype"),
    "gradient_checkpointing": Ours(words.PLANNER),
    "gradient_checkpointing_kwargs": Ours(words.PLANNER),
    "activation_offloading": Ours(words.PLANNER),
    "attn_implementation": Ours(words.ATTENTION),
    "flash_attention": Ours(words.ATTENTION),
    "xformers_attention": Ours(words.ATTENTION),
    "sdp_attention": Ours(words.ATTENTION),
    "plugins": Unless(
        "lorac loads no plugin", off=(*OFF, ["axolotl.integrations.liger.LigerPlugin"]), same=FASTER
    ),
    "torch_compile": Unless(words.EAGER),
    "torch_compile_backend": Ours(words.HOW_COMPILED),
    "torch_compile_mode": Ours(words.HOW_COMPILED),
    "cut_cross_entropy": Ours(FASTER),
    "logging_steps": Ours(words.LOGGING),
    "save_steps": optional("outputs.save_steps"),
    "save_strategy": Unless("lorac saves by steps or epochs", off=(*OFF, "steps"), same="by steps"),
    "saves_per_epoch": To("outputs.save_epochs", _each_part),
    "evals_per_epoch": Ours(EVALUATION),
    "eval_steps": Ours(EVALUATION),
    "eval_batch_size": Ours(EVALUATION),
    "eval_table_size": Ours(EVALUATION),
    "save_total_limit": To("outputs.keep_checkpoints"),
    "save_safetensors": Ours(words.SAFETENSORS),
    "save_first_step": Ours("a run that cannot save says so before it starts"),
    "resume_from_checkpoint": Unless(words.RESUME),
    "auto_resume_from_checkpoints": Ours(words.RESUME),
    "early_stopping_patience": optional("evaluation.patience"),
    "loss_watchdog_threshold": Ours("lorac stops a run whose loss is no number"),
    "loss_watchdog_patience": Ours("lorac stops a run whose loss is no number"),
    "hub_model_id": Unless(words.HUB),
    "push_dataset_to_hub": Unless(words.HUB),
    "hf_use_auth_token": Unless(words.HUB),
    "deepspeed": Unless("lorac trains on one card, or on several by fit.processes"),
    "fsdp": Unless("lorac trains on one card, or on several by fit.processes"),
    "fsdp_config": Unless("lorac trains on one card, or on several by fit.processes"),
    "fsdp_version": Ours("it matters for fsdp alone"),
    "ddp_find_unused_parameters": Ours("set fit.processes for several cards"),
    "bf16": Ours("off: lorac takes what the card computes in"),
    "local_rank": Ours("lorac numbers its own processes"),
    "debug": Unless("lorac has --debug"),
    "strict": Ours("lorac is always strict"),
}

DATASET: Table = {
    "type": Ours("carried"),
    "split": Unless("lorac reads a file: the whole of it", off=(*OFF, "train"), same="the file itself"),
    "ds_type": Ours("the file says it"),
    "field_messages": To("messages"),
    "field_instruction": To("instruction"),
    "field_input": To("input"),
    "field_output": To("output"),
    "field_system": To("system"),
    "field": To("text"),
    "roles_to_train": Unless(
        "lorac trains the assistant's turns", off=(["assistant"], ["gpt"], *OFF), same="as in lorac"
    ),
    "train_on_eos": Ours("lorac trains the end of each answer"),
    "chat_template": Unless(
        "lorac has one template for all: sequences.template", off=(*OFF, "tokenizer_default")
    ),
}

KINDS = {
    "alpaca": Instructions,
    "chat_template": Conversations,
    "sharegpt": Conversations,
    "completion": Text,
}
KINDS |= {"pretrain": Text, "alpaca_chat": Instructions}


def recognise(config: Any) -> bool:
    if not isinstance(config, Mapping) or "base_model" not in config or "lora_rank" in config:
        return False
    return isinstance(config.get("datasets"), list) or bool(
        {"sequence_len", "micro_batch_size", "lora_r"} & set(config)
    )


def companions(config: Any) -> dict[str, str]:
    return {}


def convert(config: Any, companions: Mapping[str, Any]) -> Draft:
    book = ledger(config)
    entries = book.entries
    _data(book)
    steps: Path = ("max_steps",)
    if is_on(entries.get(steps)):
        book.carry("train.steps", entries[steps], steps)
        if ("num_epochs",) in entries:
            book.ours(("num_epochs",), "max_steps overrules it")
    batch: list[Path] = [("micro_batch_size",), ("gradient_accumulation_steps",)]
    words.set_batch(
        book, [path for path in batch if path in entries], "axolotl's default of micro_batch_size"
    )
    rates: tuple[Path, ...] = (("learning_rate",),) if ("learning_rate",) in entries else ()
    if ("optimizer",) in entries:
        optimizers.carry(book, ("optimizer",), entries[("optimizer",)], rates)
    if is_on(entries.get(("bf16",))):
        book.carry("fit.dtype", "bf16", ("bf16",))
    _bits(book)
    if is_on(entries.get(("lora_target_linear",))):
        book.carry("adapter.targets", "all-linear", ("lora_target_linear",))
    if is_on(entries.get(("lora_target_modules",))):
        words.set_targets(book, ("lora_target_modules",), ("all-linear",))
    if ("warmup_ratio",) in entries:
        words.set_warmup_share(book, ("warmup_ratio",))
    if is_on(entries.get(("output_dir",))):
        words.set_place(book, ("output_dir",))
    words.set_curve(book, "lr_scheduler_kwargs", ("lr_scheduler",))
    words.set_saving(book)
    for path in book.open():
        name = str(path[0])
        if name.startswith(("wandb_", "mlflow_", "swanlab_", "trackio_", "comet_", "use_wandb")):
            book.ours(path, words.LOGGING)
        elif name.startswith("liger_"):
            book.ours(path, FASTER)
        elif name == "special_tokens" and is_on(entries[path]):
            book.left(path, "lorac takes the base's own tokens")
    book.settle(TABLE, outermost(TABLE))
    for field, value, name in (
        ("sequences.length", 512, "sequence_len"),
        ("sequences.packing", False, "sample_packing"),
        ("train.scheduler", "cosine", "lr_scheduler"),
        ("train.optimizer.weight_decay", 0.0, "weight_decay"),
        ("train.seed", 42, "seed"),
    ):
        book.assume(field, value, f"axolotl's default of {name}")
    if not {("save_strategy",), ("save_steps",), ("saves_per_epoch",)} & set(entries):
        book.assume("outputs.save_epochs", 1, "axolotl's default of save_strategy")
    if "train.steps" not in book.settings:
        book.assume("train.epochs", 1, "axolotl's default of num_epochs")
    return book.draft()


def _bits(book: Ledger) -> None:
    for name, kind in (("load_in_4bit", "nf4"), ("load_in_8bit", "int8")):
        if (path := (name,)) in book.entries:
            if is_on(book.entries[path]):
                book.carry("fit.quantization", kind, path)
            else:
                book.ours(path, "off, as in lorac")


def _data(book: Ledger) -> None:
    """Each data set is a file; its type says of which kind."""
    places = list(dict.fromkeys(path[1] for path in book.entries if path[0] == "datasets" and len(path) > 2))
    book.kinds["data.0"] = Instructions
    count = 0
    for at in places:
        kind = book.entries.get(("datasets", at, "type"))
        known = KINDS.get(str(kind).split(":")[0].split(".")[0]) if isinstance(kind, str) else None
        if known is None:
            for path in [path for path in book.entries if path[:2] == ("datasets", at)]:
                book.left(path, "lorac reads Alpaca's columns, conversations and plain text")
            continue
        place = f"data.{count}"
        book.kinds[place] = known
        _set(book, at, place)
        count += 1


STYLES = {("role", "content"): "messages", ("from", "value"): "sharegpt"}
NAMES = (("message_property_mappings", "role"), ("message_property_mappings", "content"))
OLD_NAMES = (("message_field_role",), ("message_field_content",))
"""What a turn's role and its words are called; before axolotl 0.8 by the old names."""


def _style(book: Ledger, at: Path, place: str) -> None:
    """Turns that are named as one of lorac's styles has them; others are left, as the key is not known."""
    if book.kinds[place] is not Conversations:
        return
    for names in (NAMES, OLD_NAMES):
        role, words_ = ((*at, *name) for name in names)
        style = STYLES.get((str(book.entries.get(role)), str(book.entries.get(words_))))
        if style is not None:
            book.carry(f"{place}.style", style, role, words_)
            return


def _set(book: Ledger, at: Any, place: str) -> None:
    files: Path = ("datasets", at, "data_files")
    source: Path = ("datasets", at, "path")
    if is_on(book.entries.get(files)):
        given = book.entries[files]
        first = given[0] if isinstance(given, list) else given
        book.carry(f"{place}.path", first, files)
        if isinstance(given, list) and len(given) > 1:
            book.left(files, "a part of the data takes one file: the first was carried")
        if source in book.entries:
            book.ours(source, "data_files says which")
    elif source in book.entries:
        book.carry(f"{place}.path", book.entries[source], source)
    _style(book, ("datasets", at), place)
    fields = {field.name for field in book.kinds[place].__attrs_attrs__}  # type: ignore[attr-defined]
    for path in book.open():
        if path[:2] != ("datasets", at) or not isinstance(path[2], str):
            continue
        rule = DATASET.get(path[2])
        if isinstance(rule, To) and rule.field in fields and not is_off(book.entries[path], (None, "")):
            book.carry(f"{place}.{rule.field}", book.entries[path], path)
        elif isinstance(rule, To):
            book.left(path, f"lorac's {book.kinds[place].__name__} have no such column")
        elif rule is not None:
            book.apply(path, rule)
