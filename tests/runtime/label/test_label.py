"""`python -m runtime.label`: what it writes, what it keeps, where it goes on."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from runtime.label import __main__, labeller
from runtime.label.clip import SURE, above_chance, composed
from runtime.label.words import KINDS, lists
from tests.runtime.label import models


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with ten pictures in data/, one of them deeper."""
    monkeypatch.chdir(tmp_path)
    for number in range(10):
        noise = np.random.default_rng(number).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        path = Path("data", "inner" * (number == 9), f"{number}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise).save(path)
    return tmp_path


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Instead of a model: what says "a picture, number N" of the Nth picture that it ever saw; they are counted."""
    seen: list[int] = []

    def describe(pictures: Sequence[Image.Image]) -> list[list[str]]:
        seen.extend(range(len(seen), len(seen) + len(pictures)))
        return [["a picture", f"number {number}"] for number in seen[-len(pictures) :]]

    monkeypatch.setattr(labeller, "load", lambda *_: describe)
    return seen


def label(*options: str) -> int:
    return __main__.main(["data", *options])


def captions(path: str = "data/metadata.csv") -> dict[str, str]:
    with Path(path).open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert len(rows[0]) == 2
    return dict(rows[1:])


def edit(name: str, caption: str) -> None:
    said = captions() | {name: caption}
    with Path("data/metadata.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("image", "prompt"), *said.items()])


# ---------------------------------------------------------------------------------------------------- the table


def test_each_picture_gets_a_row_with_what_stands_around_it(counted: list[int]) -> None:
    assert label("--trigger=my  style", "--prefix=a drawing of", "--suffix=on white") == 0

    assert len(captions()) == 10
    assert captions()["0.png"] == "my style, a drawing of a picture, number 0, on white"
    assert "inner/9.png" in captions()


def test_what_a_person_edited_is_kept_and_the_rest_made_anew(counted: list[int]) -> None:
    label()
    edit("3.png", "my own words")

    label("--trigger=now")
    assert captions()["3.png"] == "my own words"
    assert all(said.startswith("now, ") for name, said in captions().items() if name != "3.png")
    label("--again")
    assert captions()["3.png"] == "my own words"


def test_captions_there_before_are_a_persons(counted: list[int]) -> None:
    Path("data/metadata.csv").write_text("file_name,text\n5.png,mine\ngone.png,an old one\n6.png,\n")
    Path("data/4.txt").write_text("beside\nthe picture\n")

    label()
    assert (captions()["5.png"], captions()["4.png"]) == ("mine", "beside the picture")
    assert captions()["gone.png"] == "an old one" and captions()["6.png"].startswith("a picture")
    assert len(counted) == 8
    assert Path("data/metadata.csv").read_text().startswith("file_name,text\n")


def test_a_second_run_looks_at_new_pictures_only(
    counted: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    label()
    Image.new("RGB", (40, 40)).save("data/new.png")
    Path("data/2.png").unlink()
    capsys.readouterr()

    label("--json")
    assert len(counted) == 11
    assert "2.png" not in captions()
    said = json.loads(capsys.readouterr().out)
    assert (said["pictures"], said["labelled"], said["unchanged"], said["by_hand"]) == (10, 1, 9, 0)


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_how_far_it_is_is_said_as_a_run_says_it_and_apart_from_json(
    counted: list[int], capsys: pytest.CaptureFixture[str], options: tuple[str, ...]
) -> None:
    label(*options)
    said = capsys.readouterr()

    where, other = (said.err, said.out) if options else (said.out, said.err)
    assert "[INFO] label 10/10 ETA 0s\n" in where and "[INFO]" not in other


def test_a_stopped_run_keeps_what_it_made_and_goes_on(
    counted: list[int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = labeller.load("", {}, 8)

    def stopped(pictures: Sequence[Image.Image]) -> list[list[str]]:
        if len(counted) >= __main__.BATCH:
            raise KeyboardInterrupt
        return whole(pictures)

    with monkeypatch.context() as patch:
        patch.setattr(labeller, "load", lambda *_: stopped)
        assert label() == 130
    assert "stopped; 8 of 10 captions are written" in capsys.readouterr().err
    assert len(captions()) == 8

    assert label() == 0
    assert (len(captions()), len(counted)) == (10, 10)


def test_the_table_is_written_while_the_work_goes_on(
    counted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = labeller.load("", {}, 8)
    rows_before: list[int] = []

    def looking(pictures: Sequence[Image.Image]) -> list[list[str]]:
        rows_before.append(len(captions()) if Path("data/metadata.csv").exists() else 0)
        return whole(pictures)

    monkeypatch.setattr(labeller, "load", lambda *_: looking)
    monkeypatch.setattr(__main__, "KEPT_EVERY", __main__.BATCH)
    label()
    assert rows_before == [0, 8]


def test_a_picture_that_cannot_be_read_costs_only_itself(
    counted: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("data/0.png").write_bytes(b"no picture")

    assert label() == 0
    assert len(captions()) == 9
    assert "warning: data/0.png: is something else" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("image,prompt,rating\n0.png,a,5\n", "has the columns `image`, `prompt`, `rating`"),
        ("image,prompt\n0.png,a\n0.png,b\n", "data/metadata.csv:3: 0.png has a row already"),
    ],
)
def test_a_table_that_could_not_be_written_back_whole_is_refused(
    table: str, said: str, counted: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("data/metadata.csv").write_text(table)

    assert label() == 3
    assert said in capsys.readouterr().err
    assert Path("data/metadata.csv").read_text() == table


# --------------------------------------------------------------------------------------------------- the models


def test_a_clip_says_words_of_its_lists_the_subject_first(folder: Path) -> None:
    models.clip(folder / "clip")
    Path("words").mkdir()
    Path("words/subject.txt").write_text("# subjects\na cat\na dog\n")
    Path("words/medium.txt").write_text("a photograph\n")

    assert label("--model=clip", "--words=words") == 0
    assert set(captions().values()) <= {"a cat, a photograph", "a dog, a photograph"}
    assert label("--model=local-dir:clip", "--words=words", "--max-tags=1") == 0
    assert set(captions().values()) <= {"a cat", "a dog"}


@pytest.mark.parametrize("make", [models.blip, models.qwen_vl])
def test_a_captioner_says_its_own_words_and_not_what_it_was_asked(
    make: Callable[[Path], None], folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    make(folder / "model")
    Image.new("RGB", (90, 60)).save("data/large.png")
    capfd.readouterr()

    assert label("--model=./model", "--prefix=look:") == 0
    assert capfd.readouterr().err == ""
    assert len(captions()) == 11
    for said in captions().values():
        assert said.startswith("look: word") and set(said[6:].split()) <= set(models.WORDS)


@pytest.mark.parametrize("problem", ["multi_label_classification", "single_label_classification"])
def test_a_tagger_gives_at_most_so_many_tags(problem: str, folder: Path) -> None:
    models.tagger(folder / "vit", problem)

    assert label("--model=vit", "--max-tags=2") == 0
    tags = [said.split(", ") for said in captions().values()]
    names = {name.replace("_", " ") for name in models.LABELS}
    assert all(1 <= len(mine) <= 2 and set(mine) <= names for mine in tags)


def test_only_safe_weights_are_read(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models.clip(folder / "clip")
    (folder / "clip" / "open_clip_model.safetensors").rename(folder / "clip" / "open_clip_pytorch_model.bin")

    assert label("--model=clip") == 3
    assert "holds no .safetensors file" in capsys.readouterr().err


def test_a_model_out_of_reach_is_said_in_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    assert label("--model=someone/captioner") == 5
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("error: someone/captioner: cannot be loaded: ")
    assert said[1:] == ["hint: where there is no network, give a model's folder: --model DIR"]
    assert label("--model=./nowhere") == 3
    assert label("--model=ViT-B-32/no-such-weights") == 2


# ---------------------------------------------------------------------------------------------------- the words


def test_sure_words_stand_in_the_templates_order_and_the_surest_are_kept() -> None:
    best = {
        "light": ("dusk", 0.9),
        "medium": ("an etching", 0.5),
        "style": ("cubism", 0.1),
        "subject": ("a cat", 0.01),
    }

    assert composed(best, 8) == ["a cat", "an etching", "dusk"]
    assert composed(best, 2) == ["a cat", "dusk"]


def test_a_list_of_two_words_must_be_surer_than_one_of_thirty() -> None:
    assert above_chance(0.6, 2) < SURE < above_chance(0.6, 30)
    assert (above_chance(0.5, 2), above_chance(1.0, 1)) == (0.0, 1.0)


def test_a_file_adds_to_the_list_of_its_name_and_a_folder_stands_in_for_ours() -> None:
    Path("subject.txt").write_text("a zebra\n")
    assert lists([Path("subject.txt")])["subject"] == (*lists([])["subject"], "a zebra")
    assert lists([]).keys() == set(KINDS)

    Path("mine").mkdir()
    Path("mine/style.txt").write_text("# none\ndada\n")
    assert lists([Path("mine"), Path("subject.txt")]) == {"style": ("dada",), "subject": ("a zebra",)}


def test_a_list_of_no_kind_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    Path("subjects.txt").write_text("a zebra\n")

    assert label("--words=subjects.txt") == 2
    assert "subjects.txt: is named after no list" in capsys.readouterr().err
