"""What people from other trainers write first: their names for a spec's fields, and one value where several go."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

import pytest

from lorac import Experiment, Images, LoRA, Samples, Train
from lorac.importers import IMPORTERS
from lorac.importers.ledger import To
from lorac.other_names import _FIELDS, field_of
from lorac.reference import reference
from runtime.errors import SpecError


def refusal(make: object) -> str:
    with pytest.raises(SpecError) as caught:
        make()  # type: ignore[operator]
    return caught.value.problems[0].what


def test_every_name_stands_for_a_field_that_there_is_and_is_none_of_its_own_part() -> None:
    fields = {row.field for row in reference()}
    assert set(_FIELDS.values()) <= fields
    for name, field in _FIELDS.items():
        assert f"{field.rpartition('.')[0]}.{name}" not in fields


def test_the_importers_agree_on_what_a_name_stands_for() -> None:
    """One of them, as two trainers may mean different fields by a name: a rank of `linear`, say."""
    carried: dict[str, set[str]] = {}
    for module in (*IMPORTERS.values(), "lorac.importers.kohya_keys", "lorac.importers.onetrainer_keys"):
        for table in vars(import_module(module)).values():
            for key, verdict in table.items() if isinstance(table, dict) else ():
                if isinstance(verdict, To):
                    carried.setdefault(str(key).rpartition(".")[2], set()).add(verdict.field)
    known = {name for name in _FIELDS if name in carried}
    assert len(known) > 20
    assert [name for name in known if _FIELDS[name] not in carried[name]] == []


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Train(lr=1e-4), "Train has no field `lr`; did you mean `learning_rate`?"),
        (lambda: Train(batch_size=4), "Train has no field `batch_size`; did you mean `effective_batch`?"),
        (lambda: LoRA(r=4), "LoRA has no field `r`; did you mean `rank`?"),
        (
            lambda: Train(gradient_accumulation_steps=4),
            "Train has no field `gradient_accumulation_steps`; there is fit.accumulation",
        ),
        (
            lambda: Train(gradient_checkpointing=True),
            "Train has no field `gradient_checkpointing`; there is fit.gradient_checkpointing",
        ),
        (
            lambda: Experiment(name="a", base="b", data=Images("c"), lr=1),
            "Experiment has no field `lr`; there is train.learning_rate",
        ),
    ],
)
def test_a_name_of_another_trainer_or_another_part_is_told_by_ours(make: object, told: str) -> None:
    assert refusal(make) == told


def test_what_nobody_calls_so_stands_for_nothing() -> None:
    assert field_of("zzz") == ""
    assert refusal(lambda: Train(zzz=1)) == "Train has no field `zzz`"


@pytest.mark.parametrize(
    ("build", "hint"),
    [
        (lambda: Experiment(name="a", base="b", data="pics"), 'say what it is: Images("pics"), or another of those'),
        (lambda: Samples(prompts="a cat"), "put a comma after a single one: (value,)"),
    ],
)  # fmt: skip
def test_one_value_where_several_are_wanted_is_told_how_to_write_it(
    build: Callable[[], object], hint: str
) -> None:
    with pytest.raises(SpecError) as caught:
        build()
    assert caught.value.problems[0].hint == hint
