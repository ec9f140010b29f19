"""`lorac check` on text: duplicates, empty answers, lengths, leaks into what is held out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.lorac.calling import call

QUESTIONS = (
    "why is the sky blue at noon",
    "how do the two locks keep a long canal level",
    "who wound the town clock each week",
)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    write("train", [(question, f"because of {question.split()[-1]}") for question in QUESTIONS])
    write("heldout", [("what do bees do with wax in spring", "they build")])
    return tmp_path


def write(name: str, rows: list[tuple[str, str]]) -> None:
    lines = [json.dumps({"instruction": asked, "output": answer}) for asked, answer in rows]
    with Path(f"data/{name}.jsonl").open("a", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in lines)


def found(*arguments: str) -> set[tuple[str, str]]:
    called = call("check", "data", "--json", *arguments)
    findings = json.loads(called.out)["findings"]
    is_wrong = any(one["level"] == "error" for one in findings)
    assert (called.code, called.err) == (3 if is_wrong else 0, "")
    return {(one["fault"], one["file"]) for one in findings}


def test_a_clean_set_has_no_findings() -> None:
    assert call("check", "data").out == "data: 3 samples to train on, 1 held out, nothing found\n"


def test_each_fault_is_found_in_its_line() -> None:
    write("train", [(QUESTIONS[0], "because of noon"), ("Why IS the sky blue at noon?", "scattering")])
    write("train", [("what is left", "  "), ("what is long in a day of a mayfly", "word " * 500)])
    write(
        "heldout",
        [("How do the two locks keep every short canal?", "by gates"), ("what is new under the sun", "x")],
    )

    assert found("--length", "400") == {
        ("duplicate", "data/train.jsonl:4"),
        ("near-duplicate", "data/train.jsonl:5"),
        ("empty", "data/train.jsonl:6"),
        ("too-long", "data/train.jsonl:7"),
    }
    write("heldout", [("How do two locks keep a long canal level?", "by gates")])
    assert ("leak", "data/heldout.jsonl:4") in found()


def test_signs_inside_words_and_one_word_more_make_another_question() -> None:
    write(
        "train",
        [
            (f"what does “{word}” mean?", word)
            for word in ("C", "C++", "C&C", "J. Random", "J. Random Hacker", "win", "win win")
        ],
    )

    assert found() == set()


def test_a_held_out_file_may_have_any_name() -> None:
    write("others", [(QUESTIONS[2], "the sexton")])

    assert found() == {("near-duplicate", "data/train.jsonl:3")}
    assert found("--held-out", "data/others.jsonl") == {("leak", "data/others.jsonl:1")}


def test_a_conversation_with_an_empty_answer_is_empty_too() -> None:
    talk = {"messages": [{"role": "user", "content": "hm?"}, {"role": "assistant", "content": ""}]}
    Path("data/talk.jsonl").write_text(json.dumps(talk) + "\n")

    assert ("empty", "data/talk.jsonl:1") in found()


def test_a_folder_without_data_says_what_is_looked_for() -> None:
    Path("nothing").mkdir()
    called = call("check", "nothing")

    assert (called.code, called.out) == (3, "")
    assert called.err.startswith("error: nothing: has neither pictures nor data files (.jsonl, ")
