"""A plan carried out: the same plan gives the same bytes, whatever happens on the way."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import attrs
import psutil
import pytest
import torch

from runtime import plan
from runtime.errors import Interrupted, MachineError, PlanError
from runtime.run import held
from runtime.safeio.weights import open_weights
from tests.faults import fault
from tests.runtime.plans import carry_out, tiny_plan, where


@pytest.fixture(scope="module")
def of(tiny_base: Path, tiny_data: Path) -> plan.Plan:
    return tiny_plan(tiny_base, tiny_data, dropout=0.1)


@pytest.fixture(scope="module")
def through(of: plan.Plan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a run that nothing disturbed."""
    return carry_out(of, tmp_path_factory.mktemp("through"))


def test_the_same_plan_gives_the_same_bytes(of: plan.Plan, through: Path, tmp_path: Path) -> None:
    assert carry_out(of, tmp_path).read_bytes() == through.read_bytes()


@pytest.mark.parametrize("step", [1, 3, 5])
@fault(
    "SIGINT (Ctrl-C), at any step",
    "the step that is being taken is ended and saved; the same command goes on to the same bytes",
    code=130,
)
def test_a_run_stopped_at_any_step_goes_on_to_the_same_bytes(
    of: plan.Plan, through: Path, tmp_path: Path, step: int
) -> None:
    def stop(at: int) -> None:
        if at == step:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted) as stopped:
        carry_out(of, tmp_path, stop)

    assert f"stopped after step {step + 1} of 6" in str(stopped.value)
    assert carry_out(of, tmp_path).read_bytes() == through.read_bytes()


@fault(
    "SIGKILL at a random moment",
    "the same command goes on to the same bytes; the lock ends with the process",
    code=None,
)
def test_a_killed_run_goes_on_to_the_same_bytes(of: plan.Plan, through: Path, tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    plan.write(of, file)
    command = [sys.executable, "-m", "runtime", str(file), "--output", "tiny", "--log", "tiny/logs"]
    environment = {**os.environ, "LORAC_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL)
    while not list((tmp_path / "tiny").glob("checkpoints/step-*/DONE.json")) and process.poll() is None:
        time.sleep(0.02)
    process.kill()
    assert process.wait() == -signal.SIGKILL

    assert subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True)
    assert _tensors(tmp_path / "tiny" / "tiny.safetensors").keys() == _tensors(through).keys()
    assert (tmp_path / "tiny" / "tiny.safetensors").read_bytes() == through.read_bytes()


@fault(
    "the newest checkpoint is damaged",
    "the one before is taken, with a line, to the same bytes",
    code=0,
)
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(
    of: plan.Plan, through: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def stop(at: int) -> None:
        if at == 4:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted):
        carry_out(of, tmp_path, stop)
    damaged = tmp_path / "tiny" / "checkpoints" / "step-000005" / "adapter.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")

    assert carry_out(of, tmp_path).read_bytes() == through.read_bytes()
    said = capfd.readouterr().out
    assert f"Wrote {tmp_path / 'tiny'}/" in said and f"Report: {tmp_path / 'tiny'}/" in said
    assert (
        "checkpoint step-000005 is passed over: step-000005/adapter.safetensors: is missing or damaged"
        in said
    )
    assert "Resuming from step-000004" in said


@pytest.mark.parametrize("micro_batch", [1, 2])
def test_a_smaller_micro_batch_trains_the_same_thing(
    of: plan.Plan, through: Path, tmp_path: Path, micro_batch: int
) -> None:
    train = attrs.evolve(of.program.train, micro_batch=micro_batch, accumulation=4 // micro_batch)
    smaller = plan.make(attrs.evolve(of.program, train=train), of.outputs, of.estimate)

    _assert_close(carry_out(smaller, tmp_path), through)


def test_recomputed_blocks_train_the_same_thing(of: plan.Plan, through: Path, tmp_path: Path) -> None:
    names = ("unet.down_blocks.0.resnets.0", "unet.mid_block.attentions.0.transformer_blocks.0")
    compute = attrs.evolve(of.program.compute, checkpointed=names)
    recomputed = plan.make(attrs.evolve(of.program, compute=compute), of.outputs, of.estimate)

    _assert_close(carry_out(recomputed, tmp_path), through)


@fault(
    "out of memory",
    "the plan's next smaller micro-batch, the same effective batch",
    code=0,
)
def test_out_of_memory_steps_down_and_trains_the_same_thing(
    tiny_base: Path, tiny_data: Path, through: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fallbacks = tuple(plan.Fallback(micro_batch=micro, accumulation=4 // micro) for micro in (2, 1))
    of = tiny_plan(tiny_base, tiny_data, dropout=0.1, fallbacks=fallbacks)
    left = [3]

    def once(at: int) -> None:
        if left and at == left[0]:
            left.pop()
            raise torch.OutOfMemoryError("injected")

    made = carry_out(of, tmp_path, once)

    _assert_close(made, through)
    assert "out of memory at step 4: planned 512.0 MiB" in capfd.readouterr().out
    manifest = json.loads((made.parent / "tiny.lorac.json").read_text())
    assert "micro_batch" in json.dumps(manifest)


@fault(
    "out of memory at the smallest micro-batch",
    "what was planned and used, and which card to plan for",
    code=5,
)
def test_out_of_memory_with_nothing_smaller_left_says_what_to_do(of: plan.Plan, tmp_path: Path) -> None:
    def always(at: int) -> None:
        raise torch.OutOfMemoryError("injected")

    with pytest.raises(MachineError, match="no smaller micro-batch is left"):
        carry_out(of, tmp_path, always)


def test_a_finished_run_is_not_run_again(
    of: plan.Plan, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    made = carry_out(of, tmp_path)
    before = made.stat().st_mtime_ns
    carry_out(of, tmp_path)

    assert made.stat().st_mtime_ns == before
    assert "Already complete" in capfd.readouterr().out


def test_a_run_ends_with_what_to_do_with_the_lora(
    of: plan.Plan, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    carry_out(of, tmp_path)
    run = tmp_path / "tiny"

    assert capfd.readouterr().out.replace("[INFO] ", "").splitlines()[-4:] == [
        f"Report: {run}/report.html",
        f"The LoRA is {run}/tiny.safetensors",
        "Copy it to Stable Diffusion WebUI and Forge: models/Lora; ComfyUI: models/loras"
        f" (lorac install {run} --webui DIR or --comfyui DIR does)",
        "Call it with weight 0.8, trigger words: tiny style",
    ]


def test_on_a_cpu_the_bar_holds_the_process_against_what_was_planned_for_it(
    of: plan.Plan, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    carry_out(of, tmp_path)

    used = re.search(r"step 6/6 .* mem ([0-9.]+ [KMG]iB) / 512.0 MiB", capfd.readouterr().out)
    assert used is not None
    resident = psutil.Process().memory_info().rss
    assert float(used[1].split()[0]) * 1024 ** "_KMG".index(used[1].split()[1][0]) < 2 * resident


def test_another_plans_run_is_moved_aside_whole(
    of: plan.Plan, tiny_base: Path, tiny_data: Path, tmp_path: Path
) -> None:
    first = carry_out(of, tmp_path).read_bytes()
    other = tiny_plan(tiny_base, tiny_data, steps=2, dropout=0.1)
    carry_out(other, tmp_path)

    assert (tmp_path / f"tiny-{of.plan_hash[:8]}" / "tiny.safetensors").read_bytes() == first


def test_an_older_lorac_s_run_is_moved_aside_whole(of: plan.Plan, tmp_path: Path) -> None:
    earlier = tmp_path / "tiny"
    plan.write(attrs.evolve(of, format=plan.FORMAT - 1), earlier / "plan.json")
    (earlier / "tiny.safetensors").write_bytes(b"an older lorac's")

    with held(of, earlier):
        assert (tmp_path / "tiny-earlier" / "tiny.safetensors").read_bytes() == b"an older lorac's"
        assert [path.name for path in earlier.iterdir()] == ["plan.json"]


def test_a_changed_picture_is_refused_by_name(tiny_base: Path, tiny_data: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for file in tiny_data.iterdir():
        (data / file.name).write_bytes(file.read_bytes())
    of = tiny_plan(tiny_base, data)
    changed = bytearray((data / "3.png").read_bytes())
    changed[-20] ^= 1
    (data / "3.png").write_bytes(changed)

    with pytest.raises(PlanError) as refused:
        carry_out(of, tmp_path / "run")

    assert refused.value.lines() == [
        f"error: {data}/3.png: changed since planning",
        "hint: make the plan again and review it: lorac plan SPEC",
    ]


def test_an_unlocked_plan_is_refused_with_what_to_do(of: plan.Plan, tmp_path: Path) -> None:
    unlocked = plan.make(attrs.evolve(of.program, locked=False), of.outputs, of.estimate)

    with pytest.raises(PlanError) as refused:
        carry_out(unlocked, tmp_path)

    assert refused.value.lines() == [
        "error: plan.json: is unlocked: it was made without the base or the data",
        "hint: put the base and the data where the spec says and run: lorac plan SPEC",
    ]


@fault(
    "a second run in the same folder",
    "it is refused",
    code=5,
)
def test_two_runs_in_one_folder_are_refused(of: plan.Plan, tmp_path: Path) -> None:
    from runtime.run import locked

    folder = where(of, tmp_path).output
    folder.mkdir(parents=True)
    with locked(folder), pytest.raises(MachineError, match="another run is working in this folder"):
        carry_out(of, tmp_path)


def test_the_text_encoder_learns_at_its_own_rate(tiny_base: Path, tiny_data: Path, tmp_path: Path) -> None:
    of = tiny_plan(tiny_base, tiny_data, text_encoder=True, steps=2)
    tensors = _tensors(carry_out(of, tmp_path))

    text = [t for name, t in tensors.items() if name.startswith("lora_te_text_model_") and "up" in name]
    assert len(text) == 6
    assert all(tensor.abs().max() > 0 for tensor in text)


def test_bf16_keeps_float32_masters(tiny_base: Path, tiny_data: Path, tmp_path: Path) -> None:
    of = tiny_plan(tiny_base, tiny_data, dtype="bf16", steps=2)
    compute = plan.Compute(device="cpu", threads=2, dtype="bf16", checkpointed=())
    of = plan.make(
        attrs.evolve(of.program, compute=compute), attrs.evolve(of.outputs, dtype="fp32"), of.estimate
    )
    tensors = _tensors(carry_out(of, tmp_path))

    up = next(tensor for name, tensor in tensors.items() if name.endswith("lora_up.weight"))
    assert up.dtype is torch.float32
    assert not torch.equal(up, up.bfloat16().float())


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    with open_weights(path) as file:
        return {name: file.load(name) for name in file}


def _assert_close(made: Path, expected: Path) -> None:
    ours, theirs = _tensors(made), _tensors(expected)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], atol=2e-3, rtol=2e-2, msg=lambda m: f"{name}: {m}")  # noqa: B023
