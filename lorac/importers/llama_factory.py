"""LLaMA-Factory's YAML with its dataset_info.json. Names and defaults: src/llamafactory/hparams/*.py at ff6d4d1, and
transformers' TrainingArguments, which it takes over."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lorac.importers import optimizers, words
from lorac.importers.kohya_keys import optional, switch
from lorac.importers.ledger import (
    OFF,
    CannotCarry,
    Draft,
    Ledger,
    Ours,
    Path,
    Table,
    To,
    Unless,
    is_off,
    is_on,
    ledger,
    number,
    outermost,
)
from lorac.spec import Conversations, Instructions, Text

TITLE = "LLaMA-Factory's YAML"

BATCH = 8
"""per_device_train_batch_size where nothing is said (transformers' TrainingArguments)."""

INFO = "dataset_info.json"
EVALUATION = "lorac measures on what sequences.held_out leaves out, at each checkpoint"
TEMPLATES = {"llama3": "llama3", "chatml": "chatml", "gemma": "gemma", "gemma2": "gemma", "glm4": "glm4"}
TEMPLATES |= {"mistral": "mistral", "phi": "phi3"}
ALIKE = "lorac has no other training than LoRA on next tokens"
OTHER = "it matters for another method alone"


def _template(value: Any) -> str:
    if str(value) in TEMPLATES:
        return TEMPLATES[str(value)]
    raise CannotCarry(
        f"lorac has base (the base's own, which stands), {', '.join(sorted(set(TEMPLATES.values())))}"
    )


def _bits(value: Any) -> str:
    if number(value) in (4, 8):
        return "nf4" if number(value) == 4 else "int8"
    raise CannotCarry("lorac holds a base in 16 or 32 bits, int8 or nf4")


TABLE: Table = {
    "model_name_or_path": To("base.path"),
    "adapter_name_or_path": Unless("lorac begins an adapter anew"),
    "trust_remote_code": Unless(
        "it would run a base's own Python: read that first, then set base.trust_remote_code"
    ),
    "quantization_bit": To("fit.quantization", _bits),
    "quantization_method": Unless("lorac has int8, and bitsandbytes' nf4", off=(*OFF, "bnb", "bitsandbytes")),
    "double_quantization": Ours("lorac's nf4 has its own constants"),
    "quantization_type": Unless("lorac has nf4", off=(*OFF, "nf4"), same="nf4, as in lorac"),
    "flash_attn": Ours(words.ATTENTION),
    "torch_compile": Unless(words.EAGER),
    "torch_compile_backend": Ours(words.HOW_COMPILED),
    "torch_compile_mode": Ours(words.HOW_COMPILED),
    "enable_liger_kernel": Ours("how fast a step runs; the trained result is the same"),
    "use_unsloth": Ours("how fast a step runs; the trained result is the same"),
    "stage": Unless(ALIKE, off=("sft", "pt"), same="next tokens, as in lorac"),
    "do_train": Unless("lorac trains", off=(True,), same="a training"),
    "finetuning_type": Unless("lorac trains LoRAs", off=("lora",), same="a LoRA"),
    "lora_rank": To("adapter.rank"),
    "lora_alpha": To("adapter.alpha"),
    "lora_dropout": optional("adapter.dropout"),
    "additional_target": To("adapter.also_train", words.also_train),
    "loraplus_lr_ratio": optional("train.lora_plus_ratio"),
    "use_rslora": switch("adapter.rslora"),
    "use_dora": switch("adapter.dora"),
    "pissa_init": Unless("lorac's adapter.init is kaiming or gaussian"),
    "pissa_iter": Ours("it matters for pissa_init alone"),
    "pissa_convert": Ours("it matters for pissa_init alone"),
    "template": To("sequences.template", _template),
    "cutoff_len": To("sequences.length"),
    "train_on_prompt": Unless("lorac trains the answers alone"),
    "mask_history": Unless("lorac trains each answer of a conversation"),
    "max_samples": Unless("it is said of each file: max_samples"),
    "mix_strategy": Unless(
        "lorac visits every sample: weigh the files by weight", off=(*OFF, "concat"), same="all samples"
    ),
    "interleave_probs": Unless("weigh the files by weight"),
    "streaming": Unless("lorac locks its data by contents"),
    "enable_thinking": Unless("lorac trains texts as they are", off=(*OFF, True), same="texts as they are"),
    "default_system": Unless("lorac reads the system message from the data"),
    "dataset_dir": Ours("carried with the data sets"),
    "overwrite_cache": Ours("lorac's cache goes by contents"),
    "preprocessing_num_workers": Ours(words.LOADING),
    "preprocessing_batch_size": Ours(words.LOADING),
    "dataloader_num_workers": Ours(words.LOADING),
    "tokenized_path": Ours("lorac's cache goes by contents"),
    "eval_dataset": Unless("lorac holds out a share: sequences.held_out"),
    "per_device_eval_batch_size": Ours(EVALUATION),
    "eval_strategy": Ours(EVALUATION),
    "eval_steps": Ours(EVALUATION),
    "predict_with_generate": Ours(EVALUATION),
    "learning_rate": To("train.learning_rate"),
    "lr_scheduler_type": To("train.scheduler", words.scheduler),
    "lr_scheduler_kwargs": Unless("its curve has no such number in lorac"),
    "warmup_steps": To("train.warmup_steps"),
    "weight_decay": To("train.optimizer.weight_decay"),
    "adam_beta1": To("train.optimizer.beta1"),
    "adam_beta2": To("train.optimizer.beta2"),
    "adam_epsilon": To("train.optimizer.eps"),
    "max_grad_norm": To("train.max_grad_norm"),
    "seed": To("train.seed"),
    "data_seed": Unless("train.seed decides the order, too"),
    "neftune_noise_alpha": optional("train.neftune_alpha"),
    "gradient_checkpointing": Ours(words.PLANNER),
    "disable_gradient_checkpointing": Ours(words.PLANNER),
    "deepspeed": Unless("lorac trains on one card, or on several by fit.processes"),
    "fsdp": Unless("lorac trains on one card, or on several by fit.processes"),
    "ddp_timeout": Ours("set fit.processes for several cards"),
    "logging_steps": Ours(words.LOGGING),
    "plot_loss": Ours(words.LOGGING),
    "report_to": Ours(words.LOGGING),
    "run_name": Ours(words.LOGGING),
    "logging_dir": To("outputs.log_dir"),
    "include_num_input_tokens_seen": Ours(words.LOGGING),
    "save_steps": optional("outputs.save_steps"),
    "save_strategy": Unless("lorac saves by steps or epochs", off=(*OFF, "steps"), same="by steps"),
    "save_total_limit": To("outputs.keep_checkpoints"),
    "save_only_model": Unless("lorac's checkpoints can be gone on from"),
    "overwrite_output_dir": Ours("lorac goes on with a run, or refuses"),
    "resume_from_checkpoint": Unless(words.RESUME),
    "push_to_hub": Unless(words.HUB),
    "pref_beta": Unless(ALIKE),
    "pref_loss": Unless(ALIKE),
}

DATASET: Table = {
    "file_name": Ours("carried"),
    "formatting": Unless(
        "lorac reads Alpaca's columns and conversations", off=(*OFF, "alpaca", "sharegpt", "openai")
    ),
    "ranking": Unless(ALIKE),
    "columns.prompt": To("instruction"),
    "columns.query": To("input"),
    "columns.response": To("output"),
    "columns.system": To("system"),
    "columns.messages": To("messages"),
    "columns.history": Unless("make conversations of it"),
    "tags.role_tag": Unless("lorac reads {role, content} or {from, value}", off=(*OFF, "role", "from")),
    "tags.content_tag": Unless(
        "lorac reads {role, content} or {from, value}", off=(*OFF, "content", "value")
    ),
    "tags.user_tag": Unless("lorac reads the roles user and human", off=(*OFF, "user", "human")),
    "tags.assistant_tag": Unless("lorac reads the roles assistant and gpt", off=(*OFF, "assistant", "gpt")),
    "tags.system_tag": Unless("lorac reads the role system", off=(*OFF, "system")),
    "num_samples": Unless("it draws rows at random; lorac takes the file's first ones: set max_samples"),
}


def recognise(config: Any) -> bool:
    if not isinstance(config, Mapping) or "model_name_or_path" not in config:
        return False
    return (
        bool({"finetuning_type", "stage", "cutoff_len", "dataset_dir"} & set(config))
        and "model_family" not in config
    )


def companions(config: Any) -> dict[str, str]:
    folder = config.get("dataset_dir") or "data"
    return {INFO: f"{folder}/{INFO}"} if config.get("dataset") and isinstance(folder, str) else {}


def convert(config: Any, companions: Mapping[str, Any]) -> Draft:
    book = ledger(config)
    _data(book, companions.get(INFO))
    steps, epochs = ("max_steps",), ("num_train_epochs",)
    if is_on(book.entries.get(steps)) and not is_off(book.entries[steps], (-1,)):
        book.carry("train.steps", book.entries[steps], steps)
        if epochs in book.entries:
            book.ours(epochs, "max_steps overrules it")
    elif epochs in book.entries:
        book.carry("train.epochs", book.entries[epochs], epochs)
    size: Path = ("per_device_train_batch_size",)
    parts: list[Path] = [path for path in (size, ("gradient_accumulation_steps",)) if path in book.entries]
    silent = "transformers' default of per_device_train_batch_size"
    words.set_batch(book, parts, silent, times=1 if size in parts else BATCH)
    if ("optim",) in book.entries:
        optimizers.carry(
            book,
            ("optim",),
            book.entries[("optim",)],
            (("learning_rate",),) * (("learning_rate",) in book.entries),
        )
    for name, dtype in (("bf16", "bf16"), ("pure_bf16", "bf16"), ("fp16", "fp16")):
        path: Path = (name,)
        if path in book.entries:
            book.carry("fit.dtype", dtype, path) if is_on(book.entries[path]) else book.ours(
                path, "another dtype"
            )
    _packing(book)
    if ("val_size",) in book.entries:
        book.carry("sequences.held_out", book.entries[("val_size",)], ("val_size",))
    if ("lora_target",) in book.entries:
        words.set_targets(book, ("lora_target",), ("all",))
    if ("warmup_ratio",) in book.entries:
        words.set_warmup_share(book, ("warmup_ratio",))
    if ("output_dir",) in book.entries:
        words.set_place(book, ("output_dir",))
    words.set_curve(book, "lr_scheduler_kwargs", ("lr_scheduler_type",))
    words.set_saving(book)
    for path in book.open():
        if str(path[0]).startswith(("kt_", "use_kt")):
            book.left(path, "lorac trains on a card, or on the CPU as a whole")
        elif str(path[0]).startswith(("galore_", "badam_", "apollo_", "freeze_", "oft_")):
            book.left(path, OTHER)
    book.settle(TABLE, outermost(TABLE))
    for field, value, name in (
        ("train.learning_rate", 5e-5, "learning_rate"),
        ("train.scheduler", "linear", "lr_scheduler_type"),
        ("train.optimizer.weight_decay", 0.0, "weight_decay"),
        ("train.seed", 42, "seed"),
        ("adapter.rank", 8, "lora_rank"),
    ):
        book.assume(field, value, f"LLaMA-Factory's default of {name}")
    if str(book.entries.get(("save_strategy",), "steps")) == "steps":
        book.assume("outputs.save_steps", 500, "LLaMA-Factory's default of save_steps")
    if "train.steps" not in book.settings:
        book.assume("train.epochs", 3, "LLaMA-Factory's default of num_train_epochs")
    if rank := book.settings.get("adapter.rank"):
        book.assume("adapter.alpha", 2 * rank.value, "LLaMA-Factory's default of lora_alpha")
    return book.draft()


def _packing(book: Ledger) -> None:
    neat, plain = ("neat_packing",), ("packing",)
    if is_on(book.entries.get(neat)):
        book.carry("sequences.packing", True, neat)
        if plain in book.entries:
            book.ours(plain, "neat_packing overrules it")
    elif plain in book.entries:
        book.carry("sequences.packing", is_on(book.entries[plain]), plain)
        if is_on(book.entries[plain]):
            book.todo.append(
                "sequences.packing: samples saw each other in LLaMA-Factory's packing; in lorac's they do not"
            )
    if neat in book.entries and neat in set(book.open()):
        book.ours(neat, "packing says it")
    book.assume("sequences.packing", False, "LLaMA-Factory's default of packing")


def _data(book: Ledger, info: Any) -> None:
    """Each data set of the list is a file of its own; dataset_info.json says which, and how its columns are called."""
    path: Path = ("dataset",)
    book.kinds["data.0"] = Text if book.entries.get(("stage",)) == "pt" else Instructions
    names = [name.strip() for name in str(book.entries.get(path) or "").split(",") if name.strip()]
    if not names:
        return
    if not isinstance(info, Mapping):
        book.left(path, f"{INFO} was not found, so the files of {', '.join(names)} are not known")
        return
    folder = str(book.entries.get(("dataset_dir",)) or "data")
    found: list[str] = []
    for name in names:
        about = info.get(name)
        if not isinstance(about, Mapping) or not isinstance(about.get("file_name"), str):
            book.todo.append(
                f"data: {name} is no file: {INFO} has {'no such set' if about is None else 'no file_name'}"
            )
            continue
        place = f"data.{len(found)}"
        conversations = str(about.get("formatting")) in ("sharegpt", "openai")
        book.kinds[place] = (
            Conversations if conversations else book.kinds["data.0"] if not found else Instructions
        )
        book.entries |= ledger(about, (INFO, name)).entries
        book.carry(f"{place}.path", f"{folder}/{about['file_name']}", (INFO, name, "file_name"))
        _columns(book, name, place)
        found.append(name)
    if ("max_samples",) in book.entries:
        _first_rows(book, ("max_samples",), len(found))
    if found:
        book.ours(path, f"read: {', '.join(found)} by {INFO}")
    if len(found) < len(names):
        book.left(path, f"{', '.join(name for name in names if name not in found)} could not be carried")


def _first_rows(book: Ledger, path: Path, count: int) -> None:
    """So many rows of each file, from its first on."""
    for place in range(count) if is_on(book.entries[path]) else ():
        book.carry(f"data.{place}.max_samples", book.entries[path], path)


def _columns(book: Ledger, name: str, place: str) -> None:
    for path in book.open():
        if path[:2] != (INFO, name):
            continue
        rule = DATASET.get(".".join(map(str, path[2:])))
        if isinstance(rule, To):
            if any(rule.field == one.name for one in book.kinds[place].__attrs_attrs__):  # type: ignore[attr-defined]
                book.carry(f"{place}.{rule.field}", book.entries[path], path)
            else:
                book.left(path, f"lorac's {book.kinds[place].__name__} have no such column")
        elif rule is not None:
            book.apply(path, rule)
