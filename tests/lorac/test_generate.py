"""Scripts for batch systems: they start the plan's processes, whatever the folder is called."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import attrs
import pytest
import yaml

from lorac.generate import launch_script
from runtime import plan
from tests.lorac.plans import PROGRAM, a_plan

ODD = 'it\'s $HOME "here"'


@pytest.fixture(scope="module")
def of() -> plan.Plan:
    """A plan for four cards."""
    train = attrs.evolve(PROGRAM.train, micro_batch=1, accumulation=1, processes=4)
    return a_plan(program=attrs.evolve(PROGRAM, train=train))


def test_slurm_starts_torchrun_on_each_node_with_its_part_of_the_processes(
    of: plan.Plan, tmp_path: Path
) -> None:
    folder = tmp_path / ODD
    folder.mkdir()
    (folder / "slurm.sh").write_text(launch_script(of, folder, tmp_path, "slurm.sh"))
    for name, does in (("scontrol", "echo node1; echo node2"), ("srun", 'for word; do echo "$word"; done')):
        (tmp_path / name).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / name).chmod(0o755)
    job = {"SLURM_NNODES": "2", "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "node[1-2]", "PYTHON": "python"}
    environment = {**os.environ, **job, "PATH": f"{tmp_path}:{os.environ['PATH']}"}

    done = subprocess.run(
        ["sh", f"{ODD}/slurm.sh", "--debug"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.splitlines() == [
        "python", "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=2", "--max-restarts=3",
        "--rdzv-backend=c10d", "--rdzv-id=7", "--rdzv-endpoint=node1:29500",
        "-m", "runtime", f"{ODD}/plan.json", "--debug",
    ]  # fmt: skip
    refused = subprocess.run(
        ["sh", f"{ODD}/slurm.sh"], cwd=tmp_path, env={**environment, "SLURM_NNODES": "3"}, check=False
    )
    assert refused.returncode == 2


def test_slurm_is_asked_for_a_card_a_process_and_none_on_a_cpu(of: plan.Plan, tmp_path: Path) -> None:
    compute = attrs.evolve(of.program.compute, device="cpu", threads=1)
    on_cpu = plan.make(attrs.evolve(of.program, compute=compute), of.outputs, of.estimate)

    said = [launch_script(one, tmp_path, tmp_path, "slurm.sh") for one in (of, on_cpu)]

    assert ["gpus-per-node=4" in text for text in said] == [True, False]


def test_the_job_for_kubernetes_is_yaml_that_runs_the_plan_on_its_cards(
    of: plan.Plan, tmp_path: Path
) -> None:
    folder = tmp_path / ODD
    job = yaml.safe_load(launch_script(of, folder, tmp_path, "k8s-job.yaml"))

    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["command"] == ["python3", "-P", "-m", "runtime", f"{ODD}/plan.json"]
    assert container["resources"]["limits"] == {"nvidia.com/gpu": 4}
    assert job["metadata"]["name"] == f"lorac-{of.plan_hash[:8]}"
