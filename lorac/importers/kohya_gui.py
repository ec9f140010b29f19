"""The kohya_ss GUI's JSON (bmaltais/kohya_ss at 45088f0): sd-scripts' keys, some under other names, zero for "not set".

A saved form, so it has a key for everything: only what is set counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lorac.importers import kohya, kohya_data
from lorac.importers.kohya_keys import optional
from lorac.importers.ledger import OFF, Cannot, Draft, Ours, Table, Unless, is_off, is_on, ledger
from lorac.importers.prompts import set_prompts
from lorac.importers.words import CACHED, HOW_COMPILED, HUB, LOGGING

TITLE = "the kohya_ss GUI's JSON"

LORA = ("standard", "flux1", "sd3", "kohya locon")

RENAMED = {
    "optimizer": "optimizer_type",
    "max_resolution": "resolution",
    "conv_dim": "",
    "conv_alpha": "",
}
"""The GUI's names of sd-scripts' arguments; empty: it is settled by itself."""

GUI: Table = {
    "model_list": Ours("the GUI's choice of a base: pretrained_model_name_or_path says it"),
    "gpu_ids": Unless("lorac takes the card that fit.card names"),
    "multi_gpu": Unless("set fit.processes for several cards"),
    "num_processes": Unless(
        "set fit.processes for several cards", off=(*OFF, 1), same="one process, as in lorac"
    ),
    "num_machines": Unless("lorac trains on one machine", off=(*OFF, 1), same="one machine, as in lorac"),
    "main_process_port": Ours("set fit.processes for several cards"),
    "num_cpu_threads_per_process": Ours("fit.threads is for training on a CPU"),
    "extra_accelerate_launch_args": Unless("lorac starts its own processes"),
    "additional_parameters": Unless("arguments of sd-scripts' command line: look at them one by one"),
    "stop_text_encoder_training": Unless("lorac trains a text encoder to the end"),
    "mem_eff_save": Ours("how it is written, not what"),
    "split_mode": Ours("lorac's planner decides what waits in the computer's memory"),
    "train_on_input": Ours("it matters for (IA)3 alone"),
    "noise_offset_type": Ours("which of the GUI's noise fields count: they are listed by themselves"),
    "train_blocks": Unless(
        "lorac adapts all blocks; adapter.targets takes a regex", off=(*OFF, "all"), same="all, as in lorac"
    ),
    "async_upload": Ours(HUB),
    "epoch": Ours("max_train_steps or max_train_epochs says how long"),
    "LyCORIS_preset": Ours("it matters for LyCORIS alone"),
    "factor": Ours("it matters for LyCORIS alone"),
    "constrain": Ours("it matters for LyCORIS alone"),
    "unit": Ours("it matters for DyLoRA alone"),
    **dict.fromkeys(
        (
            "decompose_both",
            "use_cp",
            "rescaled",
            "use_scalar",
            "use_tucker",
            "bypass_mode",
            "train_norm",
            "dora_wd",
        ),
        Unless("it matters for LyCORIS alone, and lorac trains LoRA"),
    ),
    "rank_dropout": optional("adapter.rank_dropout"),
    "rank_dropout_scale": Ours("it matters for LyCORIS alone"),
    "module_dropout": optional("adapter.module_dropout"),
    "lora_network_weights": Unless("lorac begins an adapter anew"),
    "stop_text_encoder_training_pct": Unless("lorac trains a text encoder to the end"),
    "use_wandb": Ours(LOGGING),
    "save_as_bool": Ours("how it is written, not what"),
    "save_clip": Unless("lorac writes the LoRA alone"),
    "save_t5xxl": Unless("lorac writes the LoRA alone"),
    "dynamo_use_dynamic": Ours(HOW_COMPILED),
    "dynamo_use_fullgraph": Ours(HOW_COMPILED),
    "flux_fused_backward_pass": Ours("lorac's planner decides it"),
    "sd3_fused_backward_pass": Ours("lorac's planner decides it"),
    "lowvram": Ours("lorac's planner decides it"),
    "learning_rate_te": Ours("text_encoder_lr says it for a LoRA"),
    "learning_rate_te1": Ours("text_encoder_lr says it for a LoRA"),
    "learning_rate_te2": Ours("text_encoder_lr says it for a LoRA"),
    "dynamo_mode": Ours(HOW_COMPILED),
    "flux1_cache_text_encoder_outputs": Ours(CACHED),
    "flux1_cache_text_encoder_outputs_to_disk": Ours(CACHED),
    "sd3_cache_text_encoder_outputs": Ours(CACHED),
    "sd3_cache_text_encoder_outputs_to_disk": Ours(CACHED),
    "sd3_text_encoder_batch_size": Ours(CACHED),
    "sdxl_cache_text_encoder_outputs": Ours(CACHED),
    "sdxl_no_half_vae": Ours("lorac encodes pictures in float32"),
    "t5xxl_dtype": Ours("lorac's planner decides it"),
}

ELSEWHERE = Cannot("a switch of the GUI that lorac has no word for")
FAMILIES = {"sdxl": "sdxl", "flux1_checkbox": "flux1", "sd3_checkbox": "sd3"}


def recognise(config: Any) -> bool:
    if not isinstance(config, Mapping) or "network_module" in config:
        return False
    return "LoRA_type" in config or {"max_resolution", "train_batch_size", "lr_warmup"} <= set(config)


def companions(config: Any) -> dict[str, str]:
    return kohya.companions(config)


def convert(config: Any, companions: Mapping[str, Any]) -> Draft:
    book = ledger(config)
    keys: kohya.Named = {}
    for path, value in book.entries.items():
        theirs = RENAMED.get(str(path[0]), str(path[0]))
        if len(path) == 1 and theirs and not is_off(value, (None, "")):
            keys.setdefault(theirs, (path, value))
    dataset = companions.get("dataset_config")
    if isinstance(dataset, Mapping):
        book.entries |= ledger(dataset, ("dataset_config",)).entries
        kohya_data.settle(book, dataset, ("dataset_config",))
    method = keys.pop("LoRA_type", None)
    if method:
        if str(method[1]).lower() in LORA:
            book.ours(method[0], "LoRA, lorac's own method")
        else:
            book.left(method[0], "lorac trains LoRA (Standard)")
    else:
        book.todo.append(
            "adapter: the form has no LoRA_type: it trained the whole model; a LoRA wants other rates"
        )
    _convolutions(book, str(method[1]).lower() if method else "standard")
    for key, family in FAMILIES.items():
        if key in keys:
            book.family(family, keys[key][0]) if is_on(keys[key][1]) else book.ours(
                keys[key][0], "not this family"
            )
    if book.entries.get(("min_snr_gamma",)) and is_on(keys.get("flux1_checkbox", ("", False))[1]):
        book.ours(("min_snr_gamma",), "sd-scripts ignores it for Flux")
    skip = keys.get("clip_skip")
    if skip and is_on(keys.get("sdxl", ("", False))[1]):
        book.ours(
            skip[0], "sd-scripts reads SDXL's towers before their last layers whatever it says, as lorac does"
        )
    _length(book, keys)
    if "lr_warmup" in keys and not is_on(keys.get("lr_warmup_steps", ("", 0))[1]):
        _warm_up_share(book, keys)
    if "sample_prompts" in keys:
        set_prompts(book, ("sample_prompts",))
    renamed = {ours: theirs for ours, theirs in RENAMED.items() if theirs}
    kohya.train(
        book,
        keys,
        {**GUI, **{ours: kohya.KEYS[theirs] for ours, theirs in renamed.items() if theirs in kohya.KEYS}},
    )
    return book.draft()


def _convolutions(book: Any, method: str) -> None:
    for name in ("conv_dim", "conv_alpha"):
        if (name,) in book.entries:
            why = "lorac has one rank and alpha for all layers, convolutions among them"
            if method == "kohya locon":
                book.left((name,), why)
            else:
                book.ours((name,), "it matters for LoCon and LyCORIS alone")
    if method == "kohya locon":
        book.carry("adapter.targets", "qkvo+ff+conv", comment="LoRA_type: Kohya LoCon")


def _length(book: Any, keys: kohya.Named) -> None:
    """`epoch` counts unless max_train_epochs or max_train_steps is set."""
    set_ = [name for name in ("max_train_epochs", "max_train_steps") if name in keys and is_on(keys[name][1])]
    if not set_ and "epoch" in keys:
        keys["max_train_epochs"] = keys["epoch"]


def _warm_up_share(book: Any, keys: kohya.Named) -> None:
    """`lr_warmup` is in percent of the steps."""
    path, value = keys["lr_warmup"]
    percent = kohya.number_or(value, 0)
    steps = keys.get("max_train_steps")
    if percent == 0:
        book.ours(path, "no warm-up, as in lorac")
    elif str(keys.get("lr_scheduler", ("", ""))[1]).lower() == "constant":
        book.ours(path, "kohya's scheduler `constant` takes no warm-up")
    elif steps and is_on(steps[1]) and "max_train_epochs" not in keys:
        book.carry("train.warmup_steps", int(percent / 100 * kohya.number_or(steps[1], 0)), path)
    elif 0 < percent < 100:
        book.carry("train.warmup_ratio", percent / 100, path)
    else:
        book.left(path, "the whole run would be warm-up")
