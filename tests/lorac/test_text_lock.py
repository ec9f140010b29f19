"""Text files, locked: what is counted, what the plan shows, what is refused and how."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lorac import (
    Completions,
    Conversations,
    Experiment,
    Images,
    Instructions,
    Sequences,
    Text,
)
from lorac.places import versions
from lorac.text_lock import Locked, lock
from runtime import plan
from runtime.answers import question
from runtime.errors import InputError, SpecError
from runtime.families import causal_lm
from runtime.families.inspect import inspect
from runtime.media import text as media
from runtime.safeio.digest import sha256_file
from runtime.text import sequences
from tests import texts


@pytest.fixture(scope="module")
def base(tiny_lm: Path) -> plan.Base:
    return inspect(tiny_lm, sha256_file, "auto").base


def locked(
    data: tuple[Any, ...],
    folder: Path,
    base: plan.Base,
    base_path: Path | None,
    unlocked: bool = False,
    **wanted: Any,
) -> Locked:
    given = Sequences(**{"length": texts.LENGTH, **wanted})
    return lock(data, given, folder, base, base_path, unlocked)


def note(found: Locked, field: str) -> str:
    """The one decision about a field, as a line."""
    (one,) = [decision for decision in found.notes if decision.field == field]
    return f"{one.value}: {one.reason}"


def test_tokens_are_counted_and_the_trained_ones_too(tiny_lm: Path, base: plan.Base, tmp_path: Path) -> None:
    texts.write(tmp_path / "a.jsonl", [{"text": "a" * 20}, {"text": "b" * 30}])

    found = locked((Text("a.jsonl"),), tmp_path, base, tiny_lm)

    assert note(found, "tokens") == "52: 52 of them trained; 0 samples held out"  # one token a byte, and EOS
    assert note(found, "packing") == "1 sequences: 41% full, an epoch"
    (file,) = found.texts.files
    assert (file.path, file.shape, file.samples, file.trained) == ("a.jsonl", "text", 2, 2)
    assert (found.texts.expected, found.locked) == (1, True)


def test_of_an_instruction_only_the_answer_is_trained(tiny_lm: Path, base: plan.Base, tmp_path: Path) -> None:
    texts.write(tmp_path / "a.jsonl", [{"instruction": "Say it", "output": "It"}])

    found = locked((Instructions("a.jsonl"),), tmp_path, base, tiny_lm)

    assert note(found, "example") == (
        r"alpaca: <|im_start|>user\nSay it<|im_end|>\n<|im_start|>assistant\n⟦It<|im_end|>⟧\n"
    )
    assert " 3 of them trained" in note(found, "tokens")


def test_what_is_cut_and_what_is_dropped_is_said(tiny_lm: Path, base: plan.Base, tmp_path: Path) -> None:
    rows = [
        {"prompt": "short", "completion": "short"},
        {"prompt": "short", "completion": "long" * 50},  # cut
        {"prompt": "long" * 50, "completion": "never reached"},  # dropped
        {"prompt": "long" * 51, "completion": "never reached"},  # dropped
        {"prompt": "short", "completion": "short"},  # said before
    ]
    texts.write(tmp_path / "a.jsonl", rows)

    found = locked((Completions("a.jsonl"),), tmp_path, base, tiny_lm)

    assert {decision.reason for decision in found.notes if decision.field == "note"} == {
        "1 of 5 samples are cut to 128 tokens",
        "2 of 5 samples have no trained token left and are dropped",
        "1 of 5 samples say what another says",
    }
    assert (found.texts.files[0].samples, found.texts.files[0].trained) == (5, 3)


def test_what_is_held_out_is_counted_apart(tiny_lm: Path, tiny_text: Path, base: plan.Base) -> None:
    found = locked((Instructions(tiny_text.name),), tiny_text.parent, base, tiny_lm, held_out=0.3)

    (file,) = found.texts.files
    held = file.samples - file.trained
    assert 0 < held < 14
    assert f"; {held} samples held out" in note(found, "tokens")


def test_the_first_rows_alone_are_locked_and_trained_on(
    tiny_lm: Path, tiny_text: Path, tmp_path: Path
) -> None:
    of = texts.planned(tiny_lm, Instructions(str(tiny_text), max_samples=5), tmp_path, held_out=0.3)
    where = texts.where(of, tmp_path, tmp_path / "cache")
    tokenizers = causal_lm.load_tokenizers(tiny_lm, of.program.base)

    read = media.read(causal_lm, tokenizers, of.program, where, torch.device("cpu"))

    assert isinstance(of.program.data, plan.Texts)
    (file,) = of.program.data.files
    (corpus,) = read.corpora
    assert (file.max_samples, file.samples, file.sha256) == (5, 5, sha256_file(tiny_text))
    assert sorted([*corpus.train.rows, *corpus.held_out.rows]) == [1, 2, 3, 4, 5]
    assert file.trained == len(corpus.train) < 5
    assert any("its first 5 rows alone are read" in one.reason for one in of.estimate.decisions)
    assert of.plan_hash != texts.planned(tiny_lm, tiny_text, tmp_path, held_out=0.3).plan_hash


def test_a_file_of_which_nothing_can_be_trained_is_refused_by_name(
    tiny_lm: Path, base: plan.Base, tmp_path: Path
) -> None:
    texts.write(tmp_path / "long.jsonl", [{"prompt": "long" * 50, "completion": "never reached"}])

    with pytest.raises(InputError) as refused:
        locked((Completions("long.jsonl"),), tmp_path, base, tiny_lm)

    assert refused.value.lines() == [
        "error: long.jsonl: of 1 samples none has a trained token within 128 tokens",
        "hint: raise sequences.length, or shorten the prompts",
    ]


def test_all_wrong_rows_of_all_files_are_told_at_once(tiny_lm: Path, base: plan.Base, tmp_path: Path) -> None:
    good = {"instruction": "Say it", "output": "It"}
    texts.write(tmp_path / "a.jsonl", [good, {"instruction": "no answer"}, "{no json", good])
    texts.write(tmp_path / "b.jsonl", [{"text": 3}, {"text": "fine"}])
    (tmp_path / "c.jsonl").write_bytes(b"")

    with pytest.raises(InputError) as refused:
        locked((Instructions("a.jsonl"), Text("b.jsonl"), Text("c.jsonl")), tmp_path, base, tiny_lm)

    names = [problem.where.replace(f"{tmp_path}/", "") for problem in refused.value.problems]

    assert names == ["a.jsonl:2", "a.jsonl:3", "b.jsonl:1", "c.jsonl"]


def test_every_file_that_is_not_here_is_named(tiny_lm: Path, base: plan.Base, tmp_path: Path) -> None:
    with pytest.raises(InputError) as refused:
        locked((Text("a.jsonl"), Text("b.txt")), tmp_path, base, tiny_lm)

    assert [problem.where for problem in refused.value.problems] == [
        str(tmp_path / "a.jsonl"),
        str(tmp_path / "b.txt"),
    ]


def test_without_data_a_plan_reckons_with_what_is_expected(base: plan.Base, tmp_path: Path) -> None:
    found = locked((Text("a.jsonl"),), tmp_path, base, None, unlocked=True, expected=77)

    assert (found.locked, found.texts.expected, found.texts.files) == (False, 77, ())


def test_two_files_make_a_mixture_by_their_weights(tiny_lm: Path, base: plan.Base, tmp_path: Path) -> None:
    texts.write(tmp_path / "one" / "a.jsonl", [{"text": f"{at:03}" * 10} for at in range(8)])
    texts.write(tmp_path / "two" / "b.jsonl", [{"words": f"{at:03}" * 10} for at in range(100, 110)])
    data = (Text("one/a.jsonl", weight=2.0), Text("two/b.jsonl", text="words", weight=0.5))

    found = locked(data, tmp_path, base, tiny_lm, packing=False)

    assert [(file.path, file.weight, dict(file.columns)) for file in found.texts.files] == [
        ("one/a.jsonl", 2.0, {}),
        ("two/b.jsonl", 0.5, {"text": "words"}),
    ]
    assert found.texts.expected == 2 * 8 + 5
    assert found.folder == tmp_path


def test_a_conversations_style_is_read_from_its_first_row(
    tiny_lm: Path, base: plan.Base, tmp_path: Path
) -> None:
    turns = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
    texts.write(tmp_path / "a.jsonl", [{"conversations": turns}])
    texts.write(tmp_path / "b.jsonl", [{"said": messages}])

    found = locked(
        (Conversations("a.jsonl"), Conversations("b.jsonl", messages="said")), tmp_path, base, tiny_lm
    )

    assert [file.shape for file in found.texts.files] == ["sharegpt", "messages"]
    assert "<|im_start|>" in found.texts.template


def test_the_date_that_a_template_asks_for_is_in_the_plan_and_in_what_is_asked(
    tiny_lm: Path, tiny_text: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_lm, tmp_path / "base"))
    template = folder / "chat_template.jinja"
    template.write_text(
        "{{ strftime_now('%d %b %Y') }}" + template.read_text(encoding="utf-8"), encoding="utf-8"
    )
    of = texts.planned(folder, tiny_text, tmp_path)

    assert isinstance(of.program.data, plan.Texts)
    asked = causal_lm.load_tokenizers(folder, of.program.base)["model"].apply_chat_template(
        question("", "Hi"), chat_template=of.program.data.template, tokenize=False
    )
    assert asked.startswith("26 Jul 2024<|im_start|>user")
    assert "26 Jul 2024" in next(one for one in of.estimate.decisions if one.field == "example").reason


def test_the_versions_of_what_makes_tokens_are_in_the_plan(
    tiny_lm: Path, tiny_text: Path, tmp_path: Path
) -> None:
    found = texts.planned(tiny_lm, tiny_text, tmp_path).program.versions
    assert found == versions("jinja2", "tokenizers")
    assert {"jinja2", "tokenizers"} <= set(found)
    assert set(versions("gguf", "no-such-package")) == {*versions(), "gguf"}


def test_the_plans_hash_is_the_same_in_another_folder(tiny_lm: Path, tiny_text: Path, tmp_path: Path) -> None:
    hashes = []
    for name in ("here", "there"):
        folder = tmp_path / name
        shutil.copytree(tiny_text.parent, folder / "data")
        shutil.copytree(tiny_lm, folder / "base")
        hashes.append(texts.planned(Path("base"), Path("data") / tiny_text.name, folder).plan_hash)

    assert hashes[0] == hashes[1]


def test_a_language_model_learns_from_no_pictures_and_a_denoiser_from_no_text(
    tiny_lm: Path, tiny_base: Path, tiny_data: Path, tiny_text: Path, tmp_path: Path
) -> None:
    with pytest.raises(SpecError, match="is a language model, which learns from text"):
        Experiment(name="a", base=str(tiny_lm), data=Images(str(tiny_data))).plan(card="cpu")
    with pytest.raises(SpecError, match="which learns from pictures"):
        Experiment(name="a", base=str(tiny_base), data=Instructions(str(tiny_text))).plan(card="cpu")


# ------------------------------------------------------------------------------------------------- order of sequences

SETS = st.lists(
    st.tuples(st.lists(st.integers(1, 32), min_size=1, max_size=12), st.sampled_from([1.0, 2.0, 3.0])),
    min_size=1,
    max_size=3,
)


def order(
    sets: list[tuple[list[int], float]], packed: bool, seed: int, effective_batch: int
) -> sequences.Order:
    return sequences.Order(
        sizes=[len(lengths) for lengths, _ in sets],
        weights=[weight for _, weight in sets],
        lengths=[length for lengths, _ in sets for length in lengths],
        length=32,
        packed=packed,
        seed=seed,
        effective_batch=effective_batch,
    )


@given(SETS, st.booleans(), st.integers(0, 2**32 - 1), st.integers(1, 5))
@settings(max_examples=40, deadline=None)
def test_an_epoch_visits_each_sample_as_often_as_its_weight_says(
    sets: list[tuple[list[int], float]], packed: bool, seed: int, effective_batch: int
) -> None:
    made = order(sets, packed, seed, effective_batch)
    wanted = sorted(
        number
        for number, weight in enumerate(weight for lengths, weight in sets for _ in lengths)
        for _ in range(int(weight))
    )
    step = 0
    for _ in range(2):  # epochs
        seen: list[int] = []
        while len(seen) < len(wanted):
            rows = made.step(step)
            assert 1 <= len(rows) <= effective_batch
            for row in rows:
                assert sum(made.lengths[sample] for sample in row.samples) <= made.length
                assert packed or len(row.samples) == 1
                seen += row.samples
            step += 1
        assert sorted(seen) == wanted


@given(SETS, st.booleans(), st.integers(0, 2**32 - 1), st.permutations(range(12)))
@settings(max_examples=40, deadline=None)
def test_a_step_is_the_same_in_whatever_order_steps_are_asked_for(
    sets: list[tuple[list[int], float]], packed: bool, seed: int, asked: list[int]
) -> None:
    straight = order(sets, packed, seed, 2)
    wanted = [straight.step(number) for number in range(12)]
    crooked = order(sets, packed, seed, 2)

    assert {number: crooked.step(number) for number in asked} == dict(enumerate(wanted))


def test_another_seed_gives_another_order() -> None:
    sets = [([8] * 40, 1.0)]
    first, second = (order(sets, True, seed, 2).step(0) for seed in (1, 2))

    assert [row.samples for row in first] != [row.samples for row in second]
    assert not {row.key for row in first} & {row.key for row in second}
