"""Where alpha is when no tensor holds it: PEFT's configurations, and what is carried so that nothing is rounded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from runtime.lora_files.adapter import AlphaForm, Config, Update, alpha_by, by_pattern, module_of
from runtime.lora_files.keys import CLIP_LEVEL
from runtime.safeio.tensors import TORCH_NAMES

DEFAULTS: Config = {
    "peft_type": "LORA",
    "task_type": None,
    "base_model_name_or_path": None,
    "bias": "none",
    "fan_in_fan_out": False,
    "inference_mode": True,
    "init_lora_weights": True,
    "lora_dropout": 0.0,
    "modules_to_save": None,
    "use_dora": False,
    "use_rslora": False,
}
"""What adapter_config.json says beside rank, alpha and targets (PEFT 0.21.2; vLLM wants bias "none")."""


def config(updates: Iterable[Update], base: Config | None) -> Config:
    """PEFT's configuration of one component: `base` itself where it says of every module what is so, else with rank,
    alpha and targets anew. The commonest rank and alpha are the rule, others are patterns."""
    modules = {module_of(update).removeprefix(CLIP_LEVEL): update for update in updates}
    if base is not None and all(_says(base, module, update) for module, update in modules.items()):
        return base
    ranks = {module: update.rank for module, update in modules.items()}
    alphas = {module: _number(alpha_of(update)) for module, update in modules.items()}
    rank, alpha = (Counter(found.values()).most_common(1)[0][0] for found in (ranks, alphas))
    return {
        **DEFAULTS,
        **(base or {}),
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {module: r for module, r in ranks.items() if r != rank},
        "alpha_pattern": {module: a for module, a in alphas.items() if a != alpha},
        "target_modules": sorted(modules),
        "use_rslora": False,
    }


def alpha_of(update: Update) -> float:
    """The alpha that consumers take: the rank where none is said."""
    return float(update.rank) if update.alpha is None else update.alpha


def alpha_tensor(alpha: float, dtype: torch.dtype, form: AlphaForm | None = None) -> Tensor:
    """Alpha as kohya's files hold it: in the file's dtype, or the one it had; in float32 where that cannot hold it."""
    name, shape = form if form is not None else ("", ())
    wanted = getattr(torch, TORCH_NAMES[name]) if name else dtype
    made = torch.tensor(alpha, dtype=torch.float64).to(wanted)
    exact = made.double().item() == alpha
    return (made if exact else torch.tensor(alpha, dtype=torch.float32)).reshape(shape)


def forms_text(forms: Mapping[str, AlphaForm | None]) -> dict[str, str]:
    """`ALPHA_FORM`'s object: the commonest form as "*", the others by module."""
    texts = {
        name: "none" if form is None else f"{form[0]}[{','.join(map(str, form[1]))}]"
        for name, form in forms.items()
    }
    common = Counter(texts.values()).most_common(1)[0][0]
    return {"*": common, **{name: text for name, text in texts.items() if text != common}}


def _says(base: Config, module: str, update: Update) -> bool:
    """Whether a configuration gives a module this rank, and this alpha, exactly or as `alpha_tensor` rounds it."""
    if by_pattern(base.get("rank_pattern") or {}, module, base.get("r")) != update.rank:
        return False
    stated, held = alpha_by(base, module, update.rank), alpha_of(update)
    if stated is None:
        return held == update.rank
    return held in (stated, torch.tensor(stated, dtype=torch.float32).item())


def _number(value: float) -> Any:
    """An integer where it is one: Ollama reads no other (facts/outputs.md 4)."""
    return int(value) if float(value).is_integer() else value
