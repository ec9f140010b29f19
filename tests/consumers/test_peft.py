"""peft's own names to the exported file and back, exactly."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file

from runtime.export.write import export
from runtime.families import sd1
from tests.runtime.export import cases

RANK, ALPHA = 4, 6.0


def adapted() -> dict[str, torch.nn.Module]:
    """SD 1.x's components with peft's LoRA on attention, its weights random."""
    models = {}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        for component, pattern in sd1.targets(sd1.published(), "qkvo+ff", text_encoder=True).items():
            config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=pattern, init_lora_weights=False)
            models[component] = inject_adapter_in_model(config, sd1.build(cases.small(), component))
    return models


def test_peft_s_weights_come_back_from_the_file_bit_for_bit(tmp_path: Path) -> None:
    models = adapted()
    states = {component: get_peft_model_state_dict(model) for component, model in models.items()}
    trained = {
        component: {
            key.removesuffix(".lora_A.weight"): {"A": state[key], "B": state[key.replace("lora_A", "lora_B")]}
            for key in state
            if key.endswith(".lora_A.weight")
        }
        for component, state in states.items()
    }
    plan = cases.a_plan(trained, dtype="fp32", adapter_alpha=ALPHA)
    export(tmp_path, trained, plan, cases.facts(), [])

    file = load_file(tmp_path / "cyberpunk.safetensors")
    for component, model in models.items():
        back = {}
        for key in states[component]:
            module, part = key.removesuffix(".weight").rsplit(".", 1)
            prefix = sd1.export_name(component, module)
            back[key] = file.pop(f"{prefix}.{'lora_down' if part == 'lora_A' else 'lora_up'}.weight")
            assert file.pop(f"{prefix}.alpha", torch.tensor(ALPHA)).item() == ALPHA
        before = {key: value.clone() for key, value in states[component].items()}
        result = set_peft_model_state_dict(model, back)
        after = get_peft_model_state_dict(model)
        assert not result.unexpected_keys
        assert before.keys() == after.keys() and len(before) > 0
        assert all(torch.equal(before[key], after[key]) for key in before)
    assert file == {}
