"""The terms of a denoiser's loss and noise, each against its formula on small tensors."""

from __future__ import annotations

import math

import attrs
import pytest
import torch
import torch.nn.functional as F

from runtime import plan
from runtime.families import diffusion, flow, objective
from runtime.plan_objective import wrong_objective

LATENT = torch.zeros(4, 6, 8)
OFF = plan.Objective()
ALPHA = torch.tensor([0.9995, 0.5, 0.1])


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(7)


def drawn(terms: plan.Objective) -> dict[str, torch.Tensor]:
    return diffusion.draw(LATENT, generator(), 1000, terms)


def test_what_is_off_draws_and_weighs_nothing() -> None:
    source = generator()
    timestep = torch.randint(1000, (), generator=source)
    noise, posterior = (torch.randn(LATENT.shape, generator=source) for _ in range(2))
    found = drawn(OFF)

    assert found.keys() == {"timestep", "noise", "posterior"}
    assert torch.equal(found["timestep"], timestep)
    assert torch.equal(found["noise"], noise)
    assert torch.equal(found["posterior"], posterior)
    said, wanted = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    assert torch.equal(
        objective.error(said, wanted, {}, OFF), (said - wanted).square().flatten(1).mean(dim=1)
    )
    assert torch.equal(diffusion.weight(ALPHA, "epsilon", 0.0), torch.ones(3))


@pytest.mark.parametrize(
    "terms",
    [
        plan.Objective(input_perturbation=0.1),
        plan.Objective(pyramid_iterations=4, pyramid_discount=0.4),
        plan.Objective(loss_type="huber", huber_schedule="exponential", huber_c=0.1),
    ],
)
def test_a_term_moves_nothing_else_that_is_drawn(terms: plan.Objective) -> None:
    before, after = drawn(OFF), drawn(terms)
    perturbation = after.get("perturbation", torch.zeros(()))

    assert torch.equal(after["timestep"], before["timestep"])
    assert torch.equal(after["posterior"], before["posterior"])
    if not terms.pyramid_iterations:
        assert torch.allclose(after["noise"] - perturbation, before["noise"], atol=1e-6)


def test_perturbation_and_pyramid_do_not_move_each_other() -> None:
    both = drawn(plan.Objective(input_perturbation=0.1, pyramid_iterations=4, pyramid_discount=0.4))
    pyramid = drawn(plan.Objective(pyramid_iterations=4, pyramid_discount=0.4))
    perturbed = drawn(plan.Objective(input_perturbation=0.1))

    assert torch.equal(both["perturbation"], perturbed["perturbation"])
    assert torch.equal(both["noise"], pyramid["noise"] + perturbed["perturbation"])


def test_pyramid_noise_adds_coarser_levels_and_has_a_deviation_of_one() -> None:
    noise = torch.randn(2, 16, 16, generator=generator())
    source = generator()
    wanted, sizes = noise.clone(), []
    for level in range(3):
        ratio = 2 + 2 * torch.rand((), generator=source).item()
        rows = columns = int(16 / ratio**level)
        sizes.append(rows)
        coarse = torch.randn(1, 2, rows, columns, generator=source)
        wanted += 0.5**level * F.interpolate(coarse, size=(16, 16), mode="bilinear")[0]
    found = objective.pyramid(noise, generator(), 3, 0.5)

    assert sizes[0] == 16 and 1 < sizes[1] < 9 and sizes[2] >= 1
    assert torch.allclose(found, wanted / wanted.std(), atol=1e-6)
    assert math.isclose(found.std().item(), 1, rel_tol=1e-5)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_a_perturbation_is_on_the_picture_and_not_to_be_predicted(prediction_type) -> None:
    latents, noise, extra = (torch.randn(3, 4, 5, 6) for _ in range(3))
    batch = {"noise": noise + extra, "perturbation": extra}
    right = diffusion.target(latents, noise, ALPHA, prediction_type)

    assert diffusion.loss(right, latents, batch, ALPHA, prediction_type, OFF).max() < 1e-10
    wrong = diffusion.target(latents, noise + extra, ALPHA, prediction_type)
    assert diffusion.loss(wrong, latents, batch, ALPHA, prediction_type, OFF).min() > 1e-4


def test_a_flow_s_perturbation_is_not_to_be_predicted_either() -> None:
    terms, item = plan.Objective(input_perturbation=0.1), {"latent_mean": LATENT}
    sample = {name: tensor[None] for name, tensor in flow.draw(item, generator(), terms).items()}
    latents = torch.randn(1, *LATENT.shape)
    plain = flow.draw(item, generator(), OFF)["noise"]
    wanted = flow.target(latents, sample["noise"])

    assert not torch.equal(sample["noise"][0], plain)
    assert objective.error(flow.target(latents, plain[None]), wanted, sample, terms).item() < 1e-10


def test_debiased_weights_go_by_the_snr() -> None:
    snr = [min(alpha / (1 - alpha), 1000) for alpha in ALPHA.tolist()]

    epsilon = diffusion.weight(ALPHA, "epsilon", 0.0, debiased=True)
    assert torch.allclose(epsilon, torch.tensor([1 / math.sqrt(one) for one in snr]), rtol=1e-4)
    v = diffusion.weight(ALPHA, "v_prediction", 0.0, debiased=True)
    assert torch.allclose(v, torch.tensor([1 / (one + 1) for one in snr]), rtol=1e-4)
    assert snr[0] == 1000


@pytest.mark.parametrize(("loss_type", "factor"), [("huber", 0.3), ("smooth_l1", 1.0)])
def test_huber_is_square_near_zero_and_linear_far_off(loss_type, factor) -> None:
    apart = torch.tensor([[0.0, 0.5, -4.0]])
    terms = plan.Objective(loss_type=loss_type, huber_schedule="constant", huber_c=0.3)
    wanted = [2 * factor * (math.sqrt(d * d + 0.09) - 0.3) for d in (0.0, 0.5, -4.0)]

    found = objective.error(apart, torch.zeros(1, 3), {"threshold": torch.tensor([0.3])}, terms)
    assert math.isclose(found.item(), sum(wanted) / 3, rel_tol=1e-5)


def test_thresholds_follow_their_schedules() -> None:
    huber = plan.Objective(loss_type="huber", huber_c=0.1)
    time = torch.tensor(0.25)

    assert objective.threshold(time, huber)["threshold"].item() == pytest.approx(0.1)
    exponential = attrs.evolve(huber, huber_schedule="exponential")
    assert objective.threshold(time, exponential)["threshold"].item() == pytest.approx(0.1**0.25)
    assert objective.threshold(time, attrs.evolve(huber, huber_schedule="snr")) == {}
    s = [math.sqrt((1 - alpha) / alpha) for alpha in ALPHA.tolist()]
    wanted = torch.tensor([0.9 / (1 + one) ** 2 + 0.1 for one in s])
    assert torch.allclose(diffusion.snr_threshold(ALPHA, 0.1), wanted)


def test_the_snr_s_threshold_reaches_the_loss() -> None:
    terms = plan.Objective(loss_type="huber", huber_schedule="snr", huber_c=0.1)
    latents, noise = torch.zeros(3, 1, 1, 1), torch.zeros(3, 1, 1, 1)
    c = diffusion.snr_threshold(ALPHA, 0.1)

    found = diffusion.loss(torch.ones(3, 1, 1, 1), latents, {"noise": noise}, ALPHA, "epsilon", terms)
    assert torch.allclose(found, 2 * c * ((1 + c * c).sqrt() - c))


def test_what_is_masked_has_no_gradient_and_half_a_mask_half_of_it() -> None:
    said = torch.randn(1, 4, 2, 2, requires_grad=True)
    mask = torch.tensor([[[[0.0, 0.5], [1.0, 1.0]]]])
    objective.error(said, torch.zeros(1, 4, 2, 2), {"loss_mask": mask}, OFF).sum().backward()

    assert said.grad is not None
    assert torch.allclose(said.grad, mask * 2 * said.detach() / 16)
    assert not said.grad[..., 0, 0].any()


def test_prior_pictures_add_their_loss_by_their_weight() -> None:
    said, wanted = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    plain = objective.error(said, wanted, {}, OFF)

    found = objective.error(said, wanted, {"loss_weight": torch.tensor([1.0, 0.25])}, OFF)
    assert torch.allclose(found.sum(), plain[0] + 0.25 * plain[1])


@pytest.mark.parametrize(
    ("terms", "kind", "prediction_type", "field"),
    [
        (plan.Objective(snr_gamma=5.0), "images", "flow", "snr_gamma"),
        (plan.Objective(debiased=True), "images", "flow", "debiased"),
        (
            plan.Objective(loss_type="huber", huber_schedule="snr", huber_c=0.1),
            "images",
            "flow",
            "huber_schedule",
        ),
        (plan.Objective(input_perturbation=0.1), "text", "next_token", "input_perturbation"),
        (plan.Objective(neftune_alpha=5.0), "images", "epsilon", "neftune_alpha"),
        (plan.Objective(loss_type="huber"), "images", "epsilon", "huber_c"),
    ],
)
def test_a_plan_does_not_ask_for_what_the_base_has_not(terms, kind, prediction_type, field) -> None:
    (wrong,) = wrong_objective(terms, kind, prediction_type)

    assert wrong.startswith(f"train.objective.{field} ")
    assert wrong_objective(OFF, kind, prediction_type) == []
