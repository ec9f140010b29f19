"""Everything that experts set for pictures at once: from a spec through a run that is stopped and goes on."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lorac import Experiment, Fit, Folder, Images, LoRA, Outputs, Train
from lorac.compile import compile_experiment
from runtime import plan, preflight
from runtime.errors import Interrupted
from runtime.preflight import Where
from runtime.run import Options, run

NAMES = ("zwx/0.png", "zwx/1.png", "class/2.png")


@pytest.fixture(scope="module")
def of(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> plan.Plan:
    folder = tmp_path_factory.mktemp("expert")
    for number, name in enumerate(NAMES):
        path = folder / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(number).integers(0, 256, (128, 128, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path)
        path.with_suffix(".txt").write_text(f"noise {number}, grey, sharp, small")
    mask = folder / "data" / "masks" / "zwx" / "0.png"
    mask.parent.mkdir(parents=True)
    Image.new("L", (128, 128), 128).save(mask)
    experiment = Experiment(
        name="tiny",
        base=str(tiny_base),
        data=Images(
            str(folder / "data"),
            resolution=64,
            more_resolutions=(128,),
            flip=True,
            random_crop=True,
            random_zoom=0.2,
            color_jitter=0.1,
            hue_jitter=0.02,
            picture_variants=2,
            folders=(Folder("class", prior=True, loss_weight=0.5),),
            mask_path="masks",
            unmasked_weight=0.1,
            shuffle_tags=True,
            keep_tags=1,
            tag_dropout=0.2,
            caption_variants=3,
        ),
        adapter=LoRA(rank=2),
        train=Train(
            effective_batch=4,
            steps=3,
            learning_rate=1e-2,
            debiased=True,
            loss="huber",
            pyramid_iterations=4,
            input_perturbation=0.1,
        ),
        fit=Fit(card="cpu", threads=1, micro_batch=2, gradient_checkpointing=False, attention_chunks=1),
        outputs=Outputs(dtype="fp32", save_steps=1),
    )
    return compile_experiment(experiment, folder / "elsewhere", folder, None, False)


def carried_out(of: plan.Plan, output: Path, stop_at: int = 0) -> bytes:
    """Run the plan, or until the step at which it is stopped; its file."""

    def fault(step: int) -> None:
        if stop_at and step == stop_at:
            signal.raise_signal(signal.SIGINT)

    places = of.outputs.places
    where = Where(
        base=Path(places.base),
        data=Path(places.data),
        output=output,
        log=output / "logs",
        cache=output.parent / "cache",
    )
    preflight.check(of, where)
    return (run(of, Options(where=where, fault=fault)) / "tiny.safetensors").read_bytes()


@pytest.fixture(scope="module")
def through(of: plan.Plan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was not stopped, beside its cache."""
    output = tmp_path_factory.mktemp("through") / "run"
    carried_out(of, output)
    return output


def test_the_plan_says_all_of_it(of: plan.Plan) -> None:
    objective, data = of.program.train.objective, plan.pictures(of.program.data)

    assert (objective.loss_type, objective.huber_schedule, objective.huber_c) == ("huber", "snr", 0.1)
    assert (objective.debiased, objective.pyramid_iterations, objective.input_perturbation) == (True, 4, 0.1)
    assert sorted(item.bucket for item in data.items) == [(64, 64)] * 3 + [(128, 128)] * 3
    assert sum(item.repeats for item in data.items if item.loss_weight == 0.5) == data.expected / 2 == 4


def test_a_stopped_run_goes_on_to_the_same_bytes(of: plan.Plan, through: Path, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        carried_out(of, tmp_path / "run", stop_at=1)

    assert carried_out(of, tmp_path / "run") == (through / "tiny.safetensors").read_bytes()


def test_the_cache_takes_what_the_plan_says(of: plan.Plan, through: Path) -> None:
    entries = list((through.parent / "cache" / "encoded").rglob("*.safetensors"))
    headers = 512 * len(entries)  # names, shapes and a digest

    size = sum(path.stat().st_size for path in entries)
    assert 0 <= size - of.estimate.cache_bytes <= headers
