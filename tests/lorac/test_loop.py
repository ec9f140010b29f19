"""A loop's decisions, with runs made by hand: what it changes, when it ends, and that it goes on where it was."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import attrs
import pytest

from lorac import figures, launch, loop
from lorac.advice import advise as advising
from lorac.advice import evidence
from lorac.generate import Written
from lorac.install import Installed
from lorac.load import Loaded, load
from lorac.loop import Limits, Looped, Places
from runtime import plan
from tests.lorac.calling import call
from tests.lorac.runs import made_plan, write_run

SPEC = """from lorac import Experiment, Images, Train

experiment = Experiment(
    name="cat",
    base="base",
    data=Images("data"),
    train=Train(learning_rate=1e-5, steps=40),  # too low
)
"""
LIMITS = Limits(rounds=6, seconds=3600.0)


@pytest.fixture
def trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Looped]:
    """A loop whose plans are made by hand and whose training gives, for a learning rate, a loss (None diverges) and
    a norm."""

    plans: dict[str, plan.Plan] = {}
    outcomes: dict[float, tuple[float | None, float]] = {}
    measured = evidence.measured

    def generate(loaded: list[Loaded], out: Path, card: str | None) -> list[Written]:
        experiment = loaded[0].experiment
        train = experiment.train
        of = made_plan(tmp_path, experiment.name, learning_rate=train.learning_rate, steps=train.steps)
        plans[experiment.name] = of
        return [Written(plan=of, path=tmp_path / experiment.name / "plan.json")]

    def complete(path: Path, module: str = "runtime", options: Sequence[str] = ()) -> int:
        if module == "runtime.evaluation":
            return 0
        of = plans[path.parent.name]
        loss = outcomes[of.program.train.learning_rate][0]
        noise = random.Random(0)
        losses = [(loss or 1.0) + 0.3 / step + noise.uniform(-0.02, 0.02) for step in range(1, 41)]
        write_run(of, losses, is_done=loss is not None)
        return 0 if loss is not None else 6

    def with_norm(folder: Path, has_diverged: bool) -> evidence.Evidence:
        seen = measured(folder, has_diverged)
        return attrs.evolve(seen, norm=outcomes[seen.run.plan.program.train.learning_rate][1])

    monkeypatch.setattr(loop, "generate", generate)
    monkeypatch.setattr(launch, "complete", complete)
    monkeypatch.setattr(advising, "measured", with_norm)
    spec = tmp_path / "cat.py"
    spec.write_text(SPEC)
    places = Places(specs=tmp_path / "specs", plans=tmp_path / "plans", table=tmp_path / "table")

    def run(outcome: dict[float, tuple[float | None, float]], limits: Limits = LIMITS) -> Looped:
        outcomes.update(outcome)
        return loop.loop(load(spec)[0], places, limits)

    return run


def rates(of: Looped) -> list[float]:
    return [one.spec.experiment.train.learning_rate for one in of.rounds]


def test_a_rate_that_is_too_low_is_raised_until_that_gains_nothing_more(
    trainer: Callable[..., Looped], tmp_path: Path
) -> None:
    made = trainer({1e-5: (0.5, 1e-4), 1e-4: (0.4, 1e-3), 1e-3: (0.3, 0.05), 1e-2: (0.35, 0.4)})
    assert rates(made) == [1e-5, 1e-4, 1e-3, 1e-2]
    assert made.reason.startswith("no gain beyond the noise: -0.05")
    assert [one.gain.is_real for one in made.rounds if one.gain] == [True, True, False]
    winner = figures.best(made.rows)
    assert winner is not None
    assert winner.name == "cat-round-3"
    second = (tmp_path / "specs" / "round-2.py").read_text()
    assert second == SPEC.replace('"cat"', '"cat-round-2"').replace("1e-5", "0.0001").replace(
        '"base"', '"../base"'
    ).replace('"data"', '"../data"')


def test_a_round_without_a_gain_ends_it(trainer: Callable[..., Looped]) -> None:
    made = trainer({1e-5: (0.5, 1e-4), 1e-4: (0.5, 1e-3)})
    assert rates(made) == [1e-5, 1e-4]
    assert made.reason.startswith("no gain beyond the noise: 0.0000")


def test_a_first_round_that_is_healthy_is_the_last(trainer: Callable[..., Looped]) -> None:
    made = trainer({1e-5: (0.5, 0.05)})
    assert made.reason == "the round is healthy"
    assert len(made.rounds) == 1


def test_after_a_round_that_diverges_the_rate_is_lowered(trainer: Callable[..., Looped]) -> None:
    made = trainer({1e-5: (0.5, 1e-4), 1e-4: (None, 0.0), 3e-5: (0.4, 0.05), 9e-6: (0.6, 0.05)})
    assert rates(made) == [1e-5, 1e-4, 3e-5, 9e-6]
    assert [one.row.state for one in made.rounds] == ["done", "diverged", "done", "done"]


def test_the_rounds_and_the_budget_are_kept(trainer: Callable[..., Looped]) -> None:
    outcome = {1e-5: (0.5, 1e-4), 1e-4: (0.4, 1e-3), 1e-3: (0.3, 1e-3)}
    assert trainer(outcome, Limits(rounds=2, seconds=3600.0)).reason == "2 rounds are done"
    assert trainer(outcome, Limits(rounds=9, seconds=0.0)).reason.startswith("another round would go beyond")


def test_asked_again_it_decides_the_same_from_what_is_there(
    trainer: Callable[..., Looped], monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = {1e-5: (0.5, 1e-4), 1e-4: (None, 0.0), 3e-5: (0.5, 0.05)}
    first = trainer(outcome)
    monkeypatch.setattr(launch, "complete", lambda path: pytest.fail(f"{path} was run again"))
    assert loop.told(trainer(outcome)) == loop.told(first)
    assert "Ended: no gain beyond the noise: 0.0000, noise ± 0.0000." in loop.text(first, 100)


def test_the_best_is_installed_on_request(
    trainer: Callable[..., Looped], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer({1e-5: (0.5, 1e-4), 1e-4: (0.4, 0.05), 1e-3: (0.45, 0.3)})
    installed: list[tuple[str, Path | None, Path | None]] = []

    def install(folder: Path, webui: Path | None, comfyui: Path | None) -> list[Installed]:
        installed.append((folder.name, webui, comfyui))
        there = Installed(folder=folder, copied=("cat",), kept=(), call="cat", warnings=("a part of it",))
        return [there]

    monkeypatch.setattr("lorac.install.install", install)
    monkeypatch.chdir(tmp_path)
    called = call("loop", "cat.py", "--install", "webui", "web")
    assert called.code == 0
    assert "Ended: no gain beyond the noise: -0.05" in called.out
    assert installed == [("cat-round-2", Path("web"), None)]
    assert called.err.endswith("warning: a part of it\n")


def test_a_spec_of_several_experiments_is_for_a_sweep(tmp_path: Path) -> None:
    several = tmp_path / "several.py"
    several.write_text(
        "from lorac import Experiment, Images\n"
        'cats = [Experiment(name=name, base="b", data=Images("d")) for name in ("a", "b")]\n'
    )
    called = call("loop", str(several))
    assert called.code == 2
    assert called.err.splitlines() == [
        f"error: {several}: binds 2 experiments, and one is wanted",
        "hint: lorac sweep runs several",
    ]


def test_a_run_that_is_stopped_says_how_far_the_loop_is(
    trainer: Callable[..., Looped], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer({1e-5: (0.5, 1e-4), 1e-4: (0.4, 1e-3)}, Limits(rounds=1, seconds=3600.0))
    monkeypatch.setattr(launch, "complete", lambda path: 130)
    monkeypatch.chdir(tmp_path)
    called = call("loop", "cat.py")
    assert called.code == 130
    assert called.err.splitlines() == [
        "error: cat-round-2: ended with exit code 130; rounds done: 1",
        "hint: run the same command again to go on",
    ]
