"""A spec's text with other values: only they change, and what cannot be changed is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lorac.load import load
from lorac.rewrite import rewritten, written
from runtime.errors import SpecError

SPEC = '''"""Cats."""

from lorac import Experiment, Images, Samples, Train

experiment = Experiment(
    name="cat",
    base="base",  # é: columns are counted in bytes
    data=Images(
        "pictures",
        trigger="é",
    ),
    train=Train(epochs=3, learning_rate=1e-4),  # as the paper says
    samples=Samples(
        prompts=("a", "b"),
        references=("a.png", "b.png")  # no comma here
    ),
)
'''


def text(folder: Path, settings: dict[str, Any], source: str = SPEC) -> str:
    path = folder / "cat.py"
    path.write_text(source, encoding="utf-8")
    return rewritten(load(path)[0], settings)


def test_a_value_is_replaced_where_it_stands(tmp_path: Path) -> None:
    assert text(tmp_path, {"train.learning_rate": 2e-5}) == SPEC.replace("1e-4", "2e-05")


def test_steps_take_the_place_of_epochs(tmp_path: Path) -> None:
    said = "epochs=None, learning_rate=1e-4, steps=7"
    assert text(tmp_path, {"train.steps": 7}) == SPEC.replace("epochs=3, learning_rate=1e-4", said)


def test_a_field_that_is_not_there_gets_a_line_of_its_own(tmp_path: Path) -> None:
    found = text(tmp_path, {"samples.seed": 3, "data.flip": True})
    assert '        references=("a.png", "b.png"),  # no comma here\n        seed=3,\n' in found
    assert '        trigger="é",\n        flip=True,\n' in found


def test_a_part_that_is_not_there_is_added_and_imported(tmp_path: Path) -> None:
    found = text(tmp_path, {"adapter.rank": 8})
    assert "from lorac import LoRA\n" in found
    assert "    ),\n    adapter=LoRA(rank=8),\n)\n" in found


def test_a_plain_base_stays_one_until_more_is_said_of_it(tmp_path: Path) -> None:
    assert 'base="other",  # é' in text(tmp_path, {"base.path": "other"})
    found = text(tmp_path, {"base.prediction_type": "v_prediction"})
    assert 'base=Base(path="base", prediction_type="v_prediction"),  # é' in found


def test_what_is_written_elsewhere_finds_the_same_files(tmp_path: Path) -> None:
    (tmp_path / "cat.py").write_text(SPEC, encoding="utf-8")
    found = written(load(tmp_path / "cat.py")[0], {"name": "dog"}, tmp_path / "made" / "dog.py")
    experiment = found.experiment
    assert (experiment.name, experiment.base.path) == ("dog", "../base")
    assert experiment.data.path == "../pictures"  # type: ignore[union-attr]
    assert experiment.samples.references == ("../a.png", "../b.png")  # type: ignore[union-attr]
    assert found.path.read_text(encoding="utf-8").startswith('"""Cats."""\n')


def test_the_files_of_a_base_in_several_are_found_from_elsewhere_too(tmp_path: Path) -> None:
    parts = 'base=Base("base", parts=("vae.safetensors", "/te.safetensors")),'
    source = SPEC.replace('base="base",', parts).replace("import Exp", "import Base, Exp")
    (tmp_path / "cat.py").write_text(source, encoding="utf-8")
    found = written(load(tmp_path / "cat.py")[0], {"name": "dog"}, tmp_path / "made" / "dog.py")
    first, second = found.experiment.base.parts
    assert first == "../vae.safetensors"
    assert (tmp_path / "made" / second).resolve() == Path("/te.safetensors")


def test_an_experiment_whose_text_does_not_hold_the_value_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cat.py"
    path.write_text(
        "from lorac import Experiment, Images, Train\n"
        "more = {'steps': 3}\n"
        "experiments = [Experiment(name=n, base='b', data=Images('d'), train=Train(**more)) for n in 'a']\n"
    )
    with pytest.raises(SpecError, match=r"cat\.py:3: its values cannot be changed"):
        written(load(path)[0], {"train.steps": 5}, tmp_path / "new.py")
    assert not (tmp_path / "new.py").exists()
