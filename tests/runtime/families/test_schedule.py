"""The noise schedule of a base that ends in pure noise: diffusers' own, from each place that says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler
from safetensors.torch import load_file, save_file

from runtime import plan
from runtime.families import diffusion, inspect, sd2, sdxl, unet
from runtime.safeio.digest import sha256_file
from tests import single_files

BETAS = {name: value for name, value in unet.SCHEDULER.items() if name.startswith("beta")}


@pytest.mark.parametrize("ends_in_noise", [False, True])
def test_the_alphas_are_those_of_diffusers(ends_in_noise: bool) -> None:
    scheduler = {**unet.SCHEDULER, plan.ZERO_SNR: ends_in_noise}
    ours = diffusion.alphas_cumprod(scheduler)
    trainer = DDPMScheduler(**BETAS, rescale_betas_zero_snr=ends_in_noise)
    sampler = DPMSolverMultistepScheduler(**BETAS, rescale_betas_zero_snr=ends_in_noise)

    assert torch.allclose(ours, trainer.alphas_cumprod, rtol=1e-5, atol=1e-7)
    assert torch.allclose(ours, sampler.alphas_cumprod, rtol=1e-5, atol=0)
    assert (ours[-1].item() == diffusion.LEAST_ALPHA) == ends_in_noise


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("terms", [{"snr_gamma": 5.0}, {"debiased": True}])
def test_no_weight_is_divided_by_nothing_at_its_end(
    prediction_type: plan.PredictionType, terms: dict[str, float]
) -> None:
    alphas = diffusion.alphas_cumprod({**unet.SCHEDULER, plan.ZERO_SNR: True})
    weight = diffusion.weight(
        alphas, prediction_type, terms.get("snr_gamma", 0.0), bool(terms.get("debiased"))
    )

    assert weight.isfinite().all()


def test_a_folder_that_says_so_is_trained_and_drawn_from_pure_noise(tmp_path: Path) -> None:
    folder = sd2.tiny(tmp_path)
    config = folder / "scheduler" / "scheduler_config.json"
    plain = inspect.inspect(folder, sha256_file).base
    config.write_text(json.dumps({**json.loads(config.read_text()), "rescale_betas_zero_snr": True}))
    base = inspect.inspect(folder, sha256_file).base
    modules = {"unet": sd2.load(folder, base, "unet", torch.float32)}
    batch = sd2.example(base.architecture, 1, (64, 64), False)
    batch = {name: torch.ones_like(one) for name, one in batch.items()} | {"timestep": torch.tensor([999])}
    batch["noise"] = torch.zeros_like(batch["latent_mean"])

    with torch.no_grad():
        before, after = (sd2.loss(modules, batch, one, plan.Objective()).item() for one in (plain, base))
    first = {}
    for name, one in (("plain", plain), ("rescaled", base)):
        solver = unet.solver(one)
        solver.set_timesteps(4)
        first[name] = (int(solver.timesteps[0]), solver.sigmas[0].item())

    assert abs(after - before) > 1e-3
    assert first["plain"][0] < 999 and first["rescaled"][0] == 999
    assert first["rescaled"][1] > 4000 > 100 > first["plain"][1]


def test_a_file_of_sdxl_says_so_by_a_key_without_content(tmp_path: Path) -> None:
    one = single_files.write("sdxl", sdxl.tiny(tmp_path / "base"), tmp_path / "one.safetensors")
    tensors = load_file(one)

    for marks, wanted in (
        ((), ("epsilon", None)),
        ((sdxl.V_MARK,), ("v_prediction", None)),
        ((sdxl.V_MARK, sdxl.ZERO_SNR_MARK), ("v_prediction", True)),
    ):
        save_file({**tensors, **{mark: torch.zeros(0) for mark in marks}}, one)
        base = inspect.inspect(one, sha256_file).base
        assert (base.prediction_type, base.architecture["scheduler"].get(plan.ZERO_SNR)) == wanted
