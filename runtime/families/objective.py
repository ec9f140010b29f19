"""What every family of pictures draws beside its own noise, and makes of what its denoiser said: each sample's loss.

What is on travels in the batch, so that a family neither knows nor says it:

| in the batch | shape | what |
| --- | --- | --- |
| `perturbation` | like the noise | what of the noise is not to be predicted |
| `threshold` | (N,) | where the loss changes from square to linear |
| `loss_mask` | (N, 1, h, w) | how much each place of the latents counts, 0 to 1 |
| `loss_weight` | (N,) | how much the sample counts |
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from runtime import plan
from runtime.families.protocol import Batch


def shaped(noise: Tensor, generator: Generator, objective: plan.Objective) -> Batch:
    """One sample's noise (C, …, h, w) as a picture is mixed with it: in a pyramid, and perturbed.

    `generator` is the sample's own, after all that is always drawn; perturbation is drawn whichever of the two is on,
    so that neither moves the other.
    """
    if not objective.pyramid_iterations and not objective.input_perturbation:
        return {"noise": noise}
    extra = torch.randn(noise.shape, generator=generator)
    if objective.pyramid_iterations:
        noise = pyramid(noise, generator, objective.pyramid_iterations, objective.pyramid_discount)
    if not objective.input_perturbation:
        return {"noise": noise}
    perturbation = objective.input_perturbation * extra
    return {"noise": noise + perturbation, "perturbation": perturbation}


def pyramid(noise: Tensor, generator: Generator, iterations: int, discount: float) -> Tensor:
    """Noise (C, …, h, w) with coarser noise added, level i at 1 / rⁱ of the size and discountⁱ of the strength.

    r is drawn from [2, 4) for each level, and the sum is brought to a standard deviation of 1: multi-resolution noise
    (Whitaker 2023, "Multi-Resolution Noise for Diffusion Model Training"; `pyramid_noise_like` of sd-scripts, which
    takes one r and one deviation for a whole batch where this takes each sample's own).
    """
    height, width = noise.shape[-2:]
    for level in range(iterations):
        ratio = float(torch.rand((), generator=generator)) * 2 + 2
        rows, columns = max(1, int(height / ratio**level)), max(1, int(width / ratio**level))
        coarse = torch.randn((1, *noise.flatten(0, -3).shape[:1], rows, columns), generator=generator)
        fine = F.interpolate(coarse, size=(height, width), mode="bilinear")
        noise = noise + discount**level * fine.view(noise.shape)
        if rows == 1 or columns == 1:
            break
    return noise / noise.std()


def threshold(time: Tensor, objective: plan.Objective) -> Batch:
    """Where one sample's loss changes from square to linear, by its time in [0, 1], 1 being all noise; or nothing.

    Constant, or cᵗ (Khrapov et al. 2024, arXiv:2403.16728). By the SNR only `diffusion.loss` can say it.
    """
    if objective.loss_type not in plan.WITH_THRESHOLD or objective.huber_schedule == "snr":
        return {}
    is_constant = objective.huber_schedule == "constant"
    return {
        "threshold": objective.huber_c
        ** (torch.ones_like(time, dtype=torch.float32) if is_constant else time)
    }


def extras(latents: Tensor, program: plan.Program) -> Batch:
    """What a batch of latents (N, C, …, h, w) has beside its family's `example`; values irrelevant."""
    objective, data, count = program.train.objective, plan.pictures(program.data), len(latents)
    found: Batch = {}
    if objective.input_perturbation:
        found["perturbation"] = torch.empty_like(latents)
    if threshold(torch.zeros(()), objective):
        found["threshold"] = torch.ones(count)
    if data.mask != "none":
        found["loss_mask"] = torch.empty(count, 1, *latents.shape[-2:])
    if plan.are_weighted(data):
        found["loss_weight"] = torch.ones(count)
    return found


def error(said: Tensor, wanted: Tensor, batch: Batch, objective: plan.Objective) -> Tensor:
    """How far what was said (N, …) is from what was wanted (N, …), for each sample, float32 (N,).

    `wanted` is by the batch's noise, perturbation and all, which is taken off here. A masked place counts by its mask,
    and the mean is over all places, as sd-scripts has it (`apply_masked_loss`): a sample with half of it masked pulls
    half as hard.
    """
    apart = said.float() - wanted
    if "perturbation" in batch:
        apart = apart + batch["perturbation"]
    each = distance(apart, batch, objective.loss_type)
    if "loss_mask" in batch:
        each = each * batch["loss_mask"]
    found = each.flatten(1).mean(dim=1)
    return found * batch["loss_weight"] if "loss_weight" in batch else found


def distance(apart: Tensor, batch: Batch, loss_type: plan.LossType) -> Tensor:
    """The loss of each number of a difference (N, …), at the batch's thresholds c (N,).

    huber is 2c (√(d² + c²) - c), like d² for small d; smooth_l1 is the same without the factor c, like 2 |d| for large
    d (the pseudo-Huber losses of Khrapov et al. 2024, as `conditional_loss` of sd-scripts scales them).
    """
    if loss_type == "l2":
        return apart.square()
    if loss_type == "l1":
        return apart.abs()
    c = batch["threshold"].view(-1, *(1,) * (apart.dim() - 1))
    smooth = 2 * ((apart.square() + c.square()).sqrt() - c)
    return c * smooth if loss_type == "huber" else smooth
