"""Whole sets: locked by what they say, and refused with all that is wrong at once."""

from __future__ import annotations

import csv
import json
import tracemalloc
from pathlib import Path

import pytest

from runtime.data import text_sets
from runtime.data.samples import Message, Sample, Text
from runtime.errors import InputError, SpecError

JARGON = Path(__file__).parents[3] / "specs" / "jargon"
ROWS = [
    {"instruction": "Add.", "input": "1, 2", "output": "3"},
    {"instruction": 'Greet, "politely".', "input": "", "output": "Hello.\nHow are you?"},
    {"instruction": "Add.", "input": "1, 2", "output": "3"},
]


def write_jsonl(path: Path, rows: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_csv(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_a_set_is_locked_alike_from_every_format_that_says_the_same(tmp_path):
    first = text_sets.read(write_jsonl(tmp_path / "a.jsonl", ROWS))
    second = text_sets.read(write_csv(tmp_path / "a.csv", ROWS))
    assert first.shape == second.shape == "alpaca"
    assert first.digest == second.digest and first.sha256 != second.sha256
    assert (first.count, second.count) == (3, 3)
    assert [where(s) for s in text_sets.each(tmp_path / "a.jsonl", "alpaca", {})] == ["1", "2", "3"]
    assert [where(s) for s in text_sets.each(tmp_path / "a.csv", "alpaca", {})] == ["2", "3", "5"]


def where(sample: Sample | Text) -> str:
    return sample.where.rpartition(":")[2]


def test_the_first_rows_alone_are_read_and_what_is_wrong_after_them_is_no_matter(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [*ROWS, {"instruction": 1}])
    whole = text_sets.read(write_jsonl(tmp_path / "b.jsonl", ROWS[:2]))

    first = text_sets.read(path, max_samples=2)

    assert (first.count, first.digest, first.sha256 != whole.sha256) == (2, whole.digest, True)
    assert [where(s) for s in text_sets.each(path, "alpaca", {}, 2)] == ["1", "2"]
    assert text_sets.read(tmp_path / "b.jsonl", max_samples=9).count == 2


def test_no_reading_holds_the_samples(tmp_path):
    few, many = (write_jsonl(tmp_path / f"{n}.jsonl", [ROWS[0]] * n) for n in (1000, 11_000))
    peaks = []
    for path in (few, many):
        tracemalloc.start()
        text_sets.read(path)
        assert sum(1 for _ in text_sets.each(path, "alpaca", {})) in (1000, 11_000)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert (peaks[1] - peaks[0]) / 10_000 < 200, (
        "bytes for each further sample: its digest, and room to sort them"
    )


def test_a_file_that_changed_since_is_refused(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [*ROWS, {"instruction": 1}])
    with pytest.raises(text_sets.WrongRows):
        list(text_sets.each(path, "alpaca", {}))


def test_another_order_or_another_word_is_another_set(tmp_path):
    changed = [*ROWS[:2], {**ROWS[2], "output": "4"}]
    sets = [ROWS, [*reversed(ROWS[:2]), ROWS[2]], changed]
    assert len({text_sets.read(write_jsonl(tmp_path / "a.jsonl", rows)).digest for rows in sets}) == 3


def test_duplicates_are_counted_and_columns_that_nothing_reads_named(tmp_path):
    rows = [{"id": "1", **ROWS[0]}, *ROWS[1:], {**ROWS[1], "source": "me"}]
    locked = text_sets.read(write_jsonl(tmp_path / "a.jsonl", rows))
    assert locked.repeated == 2
    assert locked.unread == ("id", "source")


def test_columns_are_mapped(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [{"question": "a", "answer": "b"}])
    locked = text_sets.read(path, columns={"instruction": "question", "output": "answer"})
    sample = locked.first
    assert locked.count == 1 and isinstance(sample, Sample)
    assert sample.messages == (Message("user", "a", False), Message("assistant", "b", True))
    assert locked.shape == "alpaca" and locked.unread == ()


def test_all_that_is_wrong_is_raised_at_once_the_first_twenty_shown_and_the_rest_counted(tmp_path):
    path = tmp_path / "a.jsonl"
    good, bad = json.dumps(ROWS[0]), json.dumps({"instruction": "", "output": 1})
    path.write_text("\n".join(["{", good, *[bad] * 15, good]), encoding="utf-8")
    with pytest.raises(InputError) as caught:
        text_sets.read(path)
    lines = caught.value.lines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == 20 and errors[-1].endswith("(+ 11 more)")
    assert "a.jsonl:1: is not JSON" in errors[0]
    assert "a.jsonl:3: `instruction` is empty" in errors[1]
    assert "a.jsonl:3: `output` must be text, got the number 1" in errors[2]
    assert any(line.startswith("hint: ") for line in lines)


def test_a_first_row_of_no_shape_is_told_with_the_wrong_lines_before_it(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{\n{"a": 1}\n', encoding="utf-8")
    with pytest.raises(InputError) as caught:
        text_sets.read(path)
    assert [problem.where.rpartition(":")[2] for problem in caught.value.problems] == ["1", "2"]


@pytest.mark.parametrize(("shape", "columns"), [("alpaka", {}), ("alpaca", {"output": "instruction"})])
def test_a_shape_or_mapping_that_cannot_be_is_the_specs_mistake(tmp_path, shape, columns):
    with pytest.raises(SpecError):
        text_sets.read(write_jsonl(tmp_path / "a.jsonl", ROWS), shape, columns)


def test_the_demos_jargon_file_is_one_question_and_answer_a_row():
    """As many as its README says, no question twice, no answer longer than it says."""
    locked = text_sets.read(JARGON / "jargon.jsonl")
    assert locked.shape == "alpaca" and locked.repeated == 0 and locked.unread == ()
    assert f"has {locked.count:,} rows" in (JARGON / "README.md").read_text(encoding="utf-8")
    samples = list(text_sets.each(JARGON / "jargon.jsonl", locked.shape, {}))
    questions = {sample.messages[0].content for sample in samples if isinstance(sample, Sample)}
    assert len(questions) == locked.count
    answers = [sample.messages[1].content for sample in samples if isinstance(sample, Sample)]
    assert all(0 < len(answer) <= 1500 and answer == answer.strip() for answer in answers)
