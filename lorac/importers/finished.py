"""A finished LoRA: what its header says of the training. Ours says nearly all, kohya's `ss_*` much, others little.

- Only the header is read. Rank and targets are in the tensors' names and shapes, whoever wrote the file.
- Beside one of ours lies its plan.json: where the header names that very plan, it says the rest.
- What we write: runtime/export/metadata.py. What kohya's trainer writes: train_network.py of sd-scripts at 48d368f.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from lorac.importers import optimizers, planned, words
from lorac.importers.kohya_keys import KEYS, settle_hanging
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
)
from lorac.spec import IA3, Instructions, LoHa, LoKr, LoRA, VeRA
from runtime.errors import InputError, Problem
from runtime.safeio.safetensors import Header

TITLE = "a finished LoRA"

PLAN_HASH = "lorac.plan_hash"

FOLLOWS = "it follows from the rest"
OF_THE_FILE = "it names the file, not the training"

FINISHED: Table = {
    **{f"ss_{name}": rule for name, rule in KEYS.items()},
    "ss_debiased_estimation": KEYS["debiased_estimation_loss"],
    "ss_sd_model_name": Ours("a name, no place: see what is still to do"),
    "ss_max_train_steps": To("train.steps"),
    "ss_total_batch_size": To("train.effective_batch"),
    "ss_lr_warmup_steps": To("train.warmup_steps"),
    "ss_lr_scheduler": To("train.scheduler", words.scheduler),
    "ss_network_dim": To("adapter.rank"),
    "ss_network_alpha": To("adapter.alpha"),
    "ss_network_module": Unless(
        "lorac trains LoRA (networks.lora)", off=("networks.lora",), same="LoRA, lorac's own method"
    ),
    "ss_network_args": Unless("lorac's LoRA takes no arguments", off=(*OFF, "{}")),
    "ss_dataset_dirs": Ours("folders as they were called: see what is still to do"),
    "ss_reg_dataset_dirs": Unless(words.PRIOR, off=(*OFF, "{}")),
    "ss_datasets": Ours("folders as they were called: see what is still to do"),
    "ss_session_id": Ours(OF_THE_FILE),
    "ss_training_started_at": Ours(OF_THE_FILE),
    "ss_training_finished_at": Ours(OF_THE_FILE),
    "ss_sd_scripts_commit_hash": Ours("lorac pins its own packages in the plan"),
    **dict.fromkeys(
        ("ss_sd_model_hash", "ss_new_sd_model_hash"), Ours("lorac locks the base by its contents")
    ),
    **dict.fromkeys(
        ("ss_vae_hash", "ss_new_vae_hash", "ss_vae_name"), Unless("lorac takes the base's own autoencoder")
    ),
    **dict.fromkeys(
        (
            "ss_steps",
            "ss_epoch",
            "ss_num_epochs",
            "ss_num_batches_per_epoch",
            "ss_num_train_images",
            "ss_num_reg_images",
        ),
        Ours(FOLLOWS),
    ),
    **dict.fromkeys(("ss_batch_size_per_device", "ss_gradient_accumulation_steps"), Ours(words.PLANNER)),
    **dict.fromkeys(
        ("ss_bucket_info", "ss_tag_frequency"), Ours("it follows from the pictures and their captions")
    ),
    "modelspec.title": Ours("the title is the experiment's name"),
    "modelspec.author": To("outputs.author"),
    "modelspec.description": To("outputs.description"),
    "modelspec.license": To("outputs.license"),
    "modelspec.tags": KEYS["metadata_tags"],
    "modelspec.trigger_phrase": To("data.trigger"),
    "lorac.plan_hash": Ours("the plan's own hash: a spec has none"),
    "lorac.base_digest": Ours("locked anew when the base is planned with"),
    "lorac.data_digest": Ours("locked anew when the pictures are planned with"),
    "format": Ours(OF_THE_FILE),
    "sd version": Ours(FOLLOWS),
    "sshs_model_hash": Ours(OF_THE_FILE),
    "sshs_legacy_hash": Ours(OF_THE_FILE),
}

FAMILIES = (
    ("stable-diffusion-v1", "sd1"),
    ("sd_v1", "sd1"),
    ("stable-diffusion-v2", "sd2"),
    ("sd_v2", "sd2"),
    ("stable-diffusion-xl", "sdxl"),
    ("sdxl", "sdxl"),
    ("stable-diffusion-3", "sd3"),
    ("sd3", "sd3"),
    ("flux-1", "flux1"),
    ("flux1", "flux1"),
    ("qwen-image/", "qwen_image"),
    ("qwen_image", "qwen_image"),
    ("z-image", "z_image"),
    ("z_image", "z_image"),
)
"""How modelspec.architecture and ss_base_model_version begin."""

METHODS: tuple[tuple[type, re.Pattern[str]], ...] = (
    (LoRA, re.compile(r"(?P<module>.+?)\.(lora_down|lora_A|lora\.down)(\.default)?\.weight")),
    (LoHa, re.compile(r"(?P<module>.+?)\.hada_w1_b")),
    (LoKr, re.compile(r"(?P<module>.+?)\.lokr_(w1_b|w2_b|w1|w2)")),
    (VeRA, re.compile(r"(?P<module>.+?)\.vera_lambda_d")),
    (IA3, re.compile(r"(?P<module>.+?)\.ia3_l")),
)
"""Method -> a tensor that each of its layers has, in kohya's, LyCORIS', diffusers' or PEFT's names. Its rows are the
rank, but for LoKr's whole factors and (IA)³, which has none."""
WITHOUT_RANK = re.compile(r".+\.(lokr_w1|lokr_w2|ia3_l)")


def recognise(config: Any) -> bool:
    return isinstance(config, Header)


def companions(config: Any) -> dict[str, str]:
    return {planned.FILE: planned.FILE} if PLAN_HASH in config.metadata else {}


def convert(config: Any, companions: Mapping[str, Any]) -> Draft:
    book = Ledger({(name,): value for name, value in sorted(config.metadata.items())})
    ours = PLAN_HASH in config.metadata
    plan = planned.matching(companions.get(planned.FILE), config.metadata[PLAN_HASH]) if ours else None
    _from_tensors(book, config)
    _family(book)
    words.settle_clip_skip(book, ("ss_clip_skip",))
    _name(book)
    _rates(book)
    _optimizer(book)
    _resolution(book)
    if str(book.entries.get(("ss_lr_scheduler",))) in words.WITH_NUMBERS and plan is None:
        book.todo.append(
            "train.scheduler: the header has its name alone, not cycles, decay_steps or min_ratio"
        )
    if ours and ("ss_training_comment",) in book.entries:
        book.ours(("ss_training_comment",), "lorac writes it itself")
    for path in book.open():
        name = str(path[0])
        if name.startswith("modelspec.") and name not in FINISHED:
            book.ours(path, OF_THE_FILE)
    settle_hanging(book, "ss_")
    book.settle(FINISHED, lambda path: str(path[0]))
    if plan is None:
        _places(book, ours)
        _alpha(book)
    else:
        planned.settle(book, plan)
    return book.draft()


def _from_tensors(book: Ledger, header: Header) -> None:
    """Method, rank, targets and whether the text encoder was trained, from the names and shapes."""
    kind, layers = _layers(header)
    if not layers:
        hint = "give a LoRA, LoHa, LoKr, VeRA or (IA)³ in kohya's, LyCORIS', diffusers' or PEFT's names"
        raise InputError(Problem("", "holds no adapter: no tensor has the name of a part of one", hint))
    if kind is not LoRA:
        book.choose("adapter", kind)
    modules = list(dict.fromkeys(module for module, _ in layers))
    ranks = Counter(rank for _, rank in layers if rank)
    if not ranks and kind is not IA3:
        book.todo.append("adapter.rank: its factors are whole in the file, which says no rank")
    if len(ranks) > 1:
        several = ", ".join(f"{rank} ({count}x)" for rank, count in ranks.most_common(4))
        book.todo.append(f"adapter.rank: the file has several: {several}; lorac trains one for all layers")
    if ranks and ("ss_network_dim",) not in book.entries:
        book.carry("adapter.rank", ranks.most_common(1)[0][0], comment="the tensors' shapes")
    denoiser = [module for module in modules if not re.match(r"(lora_te|text_encoder)", module)]
    if denoiser:
        preset = _preset(denoiser)
        book.carry("adapter.targets", preset, comment="the tensors' names")
        if preset in ("all-linear", "attention"):
            book.kinds["data.0"] = Instructions
        if any(re.search(r"proj_(in|out)$", module) for module in denoiser):
            book.todo.append(
                "adapter.targets: proj_in and proj_out were adapted too; lorac's presets leave them out"
            )
    book.carry("adapter.text_encoder", len(denoiser) < len(modules), comment="the tensors' names")


def _layers(header: Header) -> tuple[type, list[tuple[str, int]]]:
    """The method, and a layer's name and rank (0: no rank) for each tensor that says so."""
    for kind, part in METHODS:
        found = [
            (match["module"].replace(".", "_"), 0 if WITHOUT_RANK.fullmatch(name) else info.shape[0])
            for name, info in header.tensors.items()
            if (match := part.fullmatch(name)) and info.shape
        ]
        if found:
            return kind, found
    return LoRA, []


def _preset(modules: list[str]) -> str:
    """The preset of targets that these layers come from."""
    if any("self_attn" in module for module in modules):  # a language model's
        return "all-linear" if any("_mlp_" in module for module in modules) else "attention"
    if any(re.search(r"resnets_\d+_conv", module) for module in modules):
        return "qkvo+ff+conv"
    if any(re.search(r"_ff_net_|_mlp_|_ff_context_", module) for module in modules):
        return "qkvo+ff"
    return "qkvo" if any("to_out" in module for module in modules) else "qkv"


def _alpha(book: Ledger) -> None:
    if "adapter.alpha" not in book.settings:
        book.todo.append(
            "adapter.alpha: it is in the file's tensors, which are not read; lorac's default is the rank"
        )


def _family(book: Ledger) -> None:
    """modelspec.architecture and ss_base_model_version, whichever says one that lorac has."""
    paths = [
        path for path in (("modelspec.architecture",), ("ss_base_model_version",)) if path in book.entries
    ]
    for path in paths:
        said = str(book.entries[path]).lower()
        name = next((ours for theirs, ours in FAMILIES if said.startswith(theirs)), None)
        if name is None:
            book.left(path, "lorac does not know it as a family; the base's own tensors decide")
        elif "base.family" in book.settings and book.settings["base.family"].value == name:
            book.ours(path, "said by modelspec.architecture")
        else:
            book.family(name, path)
    for path in ((("ss_v2",)), ("ss_v_parameterization",)):
        if path in book.entries:
            book.ours(path, "the family and the base say it")
    prediction: Path = ("modelspec.prediction_type",)
    if prediction in book.entries:
        said = str(book.entries[prediction]).lower()
        if said in ("v", "epsilon"):
            book.carry("base.prediction_type", {"v": "v_prediction"}.get(said, said), prediction)
        else:
            book.ours(prediction, "the family says it")


def _name(book: Ledger) -> None:
    names: list[Path] = [path for path in (("ss_output_name",), ("modelspec.title",)) if path in book.entries]
    if names:
        book.carry("name", book.entries[names[0]], names[0])


def _rates(book: Ledger) -> None:
    """kohya's unet_lr overrules learning_rate, and "None" stands for what was not given."""
    rate, unet, text = (("ss_learning_rate",), ("ss_unet_lr",), ("ss_text_encoder_lr",))
    if is_on(book.entries.get(unet)):
        book.carry("train.learning_rate", book.entries[unet], unet)
        if rate in book.entries:
            book.ours(rate, "ss_unet_lr overrules it")
    elif is_on(book.entries.get(rate)):
        book.carry("train.learning_rate", book.entries[rate], rate)
    if unet in book.entries and unet in set(book.open()):
        book.ours(unet, "empty: ss_learning_rate says it")
    if is_on(book.entries.get(text)):
        if book.settings["adapter.text_encoder"].value:
            book.carry("train.text_encoder_learning_rate", book.entries[text], text)
        else:
            book.ours(text, "no text encoder was trained")
    elif text in book.entries:
        book.ours(text, "as the tensors' names say")


def _optimizer(book: Ledger) -> None:
    """`torch.optim.adamw.AdamW(weight_decay=0.01,betas=(0.9, 0.999),eps=1e-08)`."""
    path: Path = ("ss_optimizer",)
    if path not in book.entries:
        return
    name, _, given = str(book.entries[path]).partition("(")
    rates = tuple(one for one in (("ss_learning_rate",), ("ss_unet_lr",)) if one in book.entries)
    for _rate in rates if optimizers.named(name).own_rate else ():
        book.settings.pop("train.learning_rate", None)
    kind = optimizers.carry(book, path, name, rates)
    if kind is not None and given:
        texts = re.split(r",(?=\w+=)", given.removesuffix(")"))
        try:
            optimizers.arguments(book, path, kind, words.arguments(texts))
        except CannotCarry as reason:
            book.left(path, f"its arguments cannot be read: {reason}")


def _resolution(book: Ledger) -> None:
    """`(512, 512)`, or ModelSpec's `512x512`."""
    theirs: Path = ("ss_resolution",)
    modelspec: Path = ("modelspec.resolution",)
    if theirs in book.entries and not is_off(book.entries[theirs], OFF):
        book.entries[theirs] = str(book.entries[theirs]).strip("()[] ")
        words.set_side(book, theirs)
        if modelspec in book.entries:
            book.ours(modelspec, "ss_resolution says it")
    elif modelspec in book.entries:
        words.set_side(book, modelspec)


def _places(book: Ledger, ours: bool) -> None:
    """No LoRA says where base and pictures were: what it says of them becomes something to do."""
    name = book.entries.get(("ss_sd_model_name",))
    told = f"the file names it {name!r}" if name else "the file does not name it"
    digest = (
        f", digest {book.entries[('lorac.base_digest',)][:12]}"
        if ours and ("lorac.base_digest",) in book.entries
        else ""
    )
    book.todo.append(f"base: {told}{digest}; give its path")
    folders = _table(book.entries.get(("ss_dataset_dirs",)))
    said = ", ".join(f"{folder} ({_count(of)} pictures)" for folder, of in list(folders.items())[:4])
    book.todo.append(
        f"data: {'the folders were ' + said if said else 'the file does not name it'}; give its path"
    )
    if ours:
        book.todo.append(
            "data: no header has init, samples or sequences; plan.json has them, and that plan is not beside the file"
        )


def _count(folder: Any) -> Any:
    return folder.get("img_count", "?") if isinstance(folder, dict) else "?"


def _table(text: Any) -> dict[str, Any]:
    try:
        value = json.loads(text) if isinstance(text, str) else {}
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
