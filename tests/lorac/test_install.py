"""A LoRA is put where WebUI and ComfyUI look for it, and nothing of theirs is lost."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch

from lorac.install import install
from runtime import plan
from runtime.errors import InputError, LoracError, SpecError
from tests.runtime.export import cases

EXAMPLE = "in the prompt: <lora:cyberpunk:0.8> catstyle"
LORA, SIDECAR, PREVIEW = "cyberpunk.safetensors", "cyberpunk.json", "cyberpunk.preview.png"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder as the exporter leaves it."""
    from runtime.export.write import export

    folder = tmp_path_factory.mktemp("run") / "cyberpunk"
    trained = {"unet": {"mid_block.attentions.0.proj_in": cases.pair()}}
    export(folder, trained, cases.a_plan(trained), cases.facts(), [cases.picture(8, 8)])
    return folder


@pytest.fixture
def run_folder(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, as output/cyberpunk of the current folder."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(exported, "output/cyberpunk"))


def program(*parts: str, root: str = "program") -> Path:
    """A folder with these files, and folders where the name ends in a slash."""
    for part in parts:
        path = Path(root, part)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(exist_ok=True) if part.endswith("/") else path.touch()
    return Path(root)


def a_webui(*more: str, root: str = "program") -> Path:
    return program("launch.py", "webui.py", "modules/", *more, root=root)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def lines(error: pytest.ExceptionInfo[Any]) -> list[str]:
    assert isinstance(error.value, LoracError)
    return error.value.lines()


def test_webui_gets_the_lora_its_sidecar_and_its_picture(run_folder: Path) -> None:
    (done,) = install(run_folder, webui=a_webui())

    assert done.folder == Path("program/models/Lora")
    assert done.copied == (SIDECAR, PREVIEW, LORA)
    assert (done.kept, done.call, done.warnings) == ((), EXAMPLE, ())
    assert files(done.folder) == [SIDECAR, PREVIEW, LORA]
    for name in files(done.folder):
        assert (done.folder / name).read_bytes() == (run_folder / name).read_bytes()


def test_comfyui_gets_the_lora_and_its_picture(run_folder: Path) -> None:
    (done,) = install(run_folder, comfyui=program("main.py", "comfy/"))

    assert (done.folder, done.call) == (Path("program/models/loras"), "node Load LoRA, strength 0.8")
    assert files(done.folder) == [PREVIEW, LORA]


def test_both_at_once(run_folder: Path) -> None:
    done = install(run_folder, webui=a_webui(root="a"), comfyui=program("main.py", "comfy/", root="b"))

    assert [one.folder for one in done] == [Path("a/models/Lora"), Path("b/models/loras")]


ADDNET = "extensions/sd-webui-additional-networks/scripts/"


@pytest.mark.parametrize(
    ("there", "folder"),
    [
        ([ADDNET], "extensions/sd-webui-additional-networks/models/lora"),
        ([ADDNET, "extensions-builtin/Lora/"], "models/Lora"),
        ([ADDNET, "models/Lora/"], "models/Lora"),
        ([], "models/Lora"),
    ],
)
def test_additional_networks_folder_is_used_where_nothing_else_loads_loras(
    run_folder: Path, there: list[str], folder: str
) -> None:
    (done,) = install(run_folder, webui=a_webui(*there))

    assert done.folder == Path("program", folder)
    assert files(done.folder) == ([LORA] if "extensions" in folder else [SIDECAR, PREVIEW, LORA])


@pytest.fixture
def with_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run with two words that have vectors of their own."""
    from runtime.export.write import export

    monkeypatch.chdir(tmp_path)
    place = "embeddings.token_embedding"
    lora = {"unet": {"mid_block.attentions.0.proj_in": cases.pair()}}
    planned = cases.a_plan(lora)
    words = tuple(
        plan.Word(word=w, initial="a", vectors=1, learning_rate=0.0) for w in ("<crest>", "catstyle")
    )
    adapter = attrs.evolve(planned.program.adapter, words=words, word_embeddings={"text_encoder": place})
    planned = plan.make(
        attrs.evolve(planned.program, adapter=adapter),
        attrs.evolve(planned.outputs, trigger="<crest> catstyle"),
        planned.estimate,
    )
    rows = {plan.token_of(word): torch.ones(1, 768) for word in words}
    folder = Path("output/cyberpunk")
    export(folder, lora | {"text_encoder": {place: rows}}, planned, cases.facts(), [cases.picture(8, 8)])
    return folder


WORDS = ("crest.safetensors", "catstyle.safetensors")


def test_words_go_where_each_program_wants_them_and_are_called_as_it_does(with_words: Path) -> None:
    comfyui = program("main.py", "comfy/", root="comfyui")
    lora, words, nodes, embeddings = install(with_words, webui=a_webui(root="webui"), comfyui=comfyui)

    assert (lora.folder, lora.copied) == (Path("webui/models/Lora"), (SIDECAR, PREVIEW, LORA))
    assert lora.call == "in the prompt: <lora:cyberpunk:0.8> crest catstyle"
    assert (words.folder, sorted(words.copied)) == (Path("webui/embeddings"), sorted(WORDS))
    assert words.call == "in the prompt: crest; in the prompt: catstyle"
    assert nodes.folder == Path("comfyui/models/loras")
    assert (embeddings.folder, files(embeddings.folder)) == (Path("comfyui/models/embeddings"), sorted(WORDS))
    assert embeddings.call == "in the prompt: embedding:crest; in the prompt: embedding:catstyle"
    sidecar = json.loads((lora.folder / SIDECAR).read_text())
    assert sidecar["activation text"] == "crest catstyle"


def test_another_file_that_webui_takes_for_the_word_is_told_of(with_words: Path) -> None:
    root = a_webui("embeddings/old/crest.pt")
    _, words = install(with_words, webui=root)

    (said,) = words.warnings
    assert said.startswith("program/embeddings/old/crest.pt has the same name: WebUI knows only one word")


def test_a_changed_file_of_a_word_is_not_installed(with_words: Path) -> None:
    (with_words / "embeddings" / WORDS[0]).write_bytes(b"other")

    with pytest.raises(InputError, match="changed since it was made"):
        install(with_words, webui=a_webui())


def test_installing_twice_copies_nothing_the_second_time(run_folder: Path) -> None:
    install(run_folder, webui=a_webui())
    (done,) = install(run_folder, webui=a_webui())

    assert (done.copied, done.kept) == ((), (SIDECAR, PREVIEW, LORA))


def test_another_file_of_that_name_is_replaced_only_by_force(run_folder: Path) -> None:
    root = a_webui("models/Lora/")
    (root / "models/Lora" / LORA).write_text("another LoRA")
    (root / "models/Lora" / SIDECAR).write_text("{}")

    with pytest.raises(SpecError) as caught:
        install(run_folder, webui=root)
    assert lines(caught) == [
        f"error: program/models/Lora/{SIDECAR}: is there already and is another file",
        f"error: program/models/Lora/{LORA}: is there already and is another file",
        "hint: replace it with --force",
    ]
    assert files(root / "models/Lora") == [SIDECAR, LORA]
    assert (root / "models/Lora" / LORA).read_text() == "another LoRA"

    (done,) = install(run_folder, webui=root, force=True)
    assert done.copied == (SIDECAR, PREVIEW, LORA)
    assert (root / "models/Lora" / LORA).read_bytes() == (run_folder / LORA).read_bytes()


def test_nothing_is_copied_anywhere_if_one_place_is_taken(run_folder: Path) -> None:
    comfy = program("main.py", f"models/loras/{LORA}", "comfy/", root="b")

    with pytest.raises(SpecError):
        install(run_folder, webui=a_webui(root="a"), comfyui=comfy)
    assert not Path("a/models").exists()


def test_the_same_stem_in_a_subfolder_is_warned_of(run_folder: Path) -> None:
    root = a_webui("models/Lora/old/cyberpunk.pt", "models/Lora/cyberpunk.txt", "models/Lora/cyberpunk2.pt")

    (done,) = install(run_folder, webui=root)

    assert done.warnings == (
        "program/models/Lora/old/cyberpunk.pt has the same name: WebUI knows only one LoRA of a name, the one"
        " that it finds last; rename one of the two",
    )


def test_a_changed_or_missing_file_is_named(run_folder: Path) -> None:
    (run_folder / LORA).write_bytes(b"rot")
    (run_folder / PREVIEW).unlink()

    with pytest.raises(InputError) as caught:
        install(run_folder, webui=a_webui())
    assert lines(caught) == [
        f"error: output/cyberpunk/{LORA}: changed since it was made",
        f"error: output/cyberpunk/{PREVIEW}: is missing",
        "hint: run the plan again: it makes what is missing",
    ]


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (
            ["readme.txt"],
            [
                "error: program: is not Stable Diffusion WebUI: it has no launch.py with modules/ beside it",
                "hint: give the folder that holds launch.py",
            ],
        ),
        (
            ["webui/launch.py", "webui/modules/"],
            [
                "error: program: is not Stable Diffusion WebUI: it has no launch.py with modules/ beside it",
                "hint: did you mean program/webui?",
            ],
        ),
    ],
)
def test_a_folder_that_is_not_webui_s_is_refused(run_folder: Path, parts: list[str], said: list[str]) -> None:
    with pytest.raises(SpecError) as caught:
        install(run_folder, webui=program(*parts))
    assert lines(caught) == said


def test_a_folder_that_is_not_there_is_refused(run_folder: Path) -> None:
    with pytest.raises(SpecError) as caught:
        install(run_folder, comfyui=Path("nowhere"))
    assert lines(caught) == ["error: nowhere: is not a folder", "hint: give the folder of ComfyUI"]


def test_without_a_place_to_go_to_it_says_how(run_folder: Path) -> None:
    with pytest.raises(SpecError) as caught:
        install(run_folder)
    assert lines(caught) == [
        "error: nothing says where to install it",
        "hint: lorac install NAME --webui DIR, or --comfyui DIR",
    ]


def test_a_folder_without_a_finished_lora_is_refused(run_folder: Path) -> None:
    (run_folder / "cyberpunk.lorac.json").unlink()

    with pytest.raises(InputError) as caught:
        install(run_folder, webui=a_webui())
    assert lines(caught) == [
        "error: output/cyberpunk: holds no finished LoRA",
        "hint: give the folder of a finished run, such as output/NAME",
    ]


def test_a_language_model_s_lora_is_not_copied_but_pointed_at(run_folder: Path) -> None:
    verdicts = [
        {"consumer": name, "folder": "", "loads": loads, "reason": "", "call": call}
        for name, loads, call in (
            ("PEFT", "loads", "PeftModel"),
            ("vLLM", "refuses", "vllm"),
            ("llama.cpp", "loads", "llama-cli"),
        )
    ]
    edited(run_folder, files=[{"role": "peft", "name": LORA, "sha256": "0"}], consumers=verdicts)

    for given in ({}, {"webui": a_webui()}):
        with pytest.raises(SpecError) as caught:
            install(run_folder, **given)
        assert lines(caught) == [
            "error: output/cyberpunk: is a language model's LoRA, which is used from where it is",
            "hint: PeftModel; or llama-cli",
        ]


def edited(run_folder: Path, **changed: Any) -> None:
    path = run_folder / "cyberpunk.lorac.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changed}), encoding="utf-8")


@pytest.mark.parametrize("changed", [{"files": []}, {"files": 3}, {"name": 3}, {"consumers": [{}]}])
def test_a_manifest_that_is_none_is_refused(run_folder: Path, changed: dict[str, Any]) -> None:
    edited(run_folder, **changed)

    with pytest.raises(InputError) as caught:
        install(run_folder, webui=a_webui())
    assert lines(caught)[0] == "error: output/cyberpunk/cyberpunk.lorac.json: is not a manifest of lorac"


def test_a_manifest_cannot_make_it_copy_from_elsewhere(run_folder: Path) -> None:
    Path("secret").write_text("key")
    (run_folder / "link").symlink_to(Path("secret").resolve())
    sha256 = hashlib.sha256(b"key").hexdigest()

    (run_folder / "embeddings").mkdir()
    (run_folder / "embeddings" / "link").symlink_to(Path("secret").resolve())
    for role, name, said in [
        ("webui", "../../secret", "is not a manifest of lorac"),
        ("webui", "link", "a link that leaves its folder"),
        ("embedding", "../../secret", "is not a manifest of lorac"),
        ("embedding", "embeddings/../../../secret", "is not a manifest of lorac"),
        ("embedding", "secret", "is not a manifest of lorac"),
        ("embedding", "embeddings/..", "is not a manifest of lorac"),
        ("embedding", "embeddings/link", "a link that leaves its folder"),
    ]:
        files = [{"role": "webui", "name": "cyberpunk.safetensors", "sha256": sha256}] * (role != "webui")
        edited(run_folder, files=[{"role": role, "name": name, "sha256": sha256}, *files])
        with pytest.raises(InputError, match=said):
            install(run_folder, webui=a_webui())
    assert not Path("program/models").exists()


def test_what_the_program_would_refuse_is_not_installed(run_folder: Path) -> None:
    verdict = {
        "consumer": "ComfyUI",
        "folder": "models/loras",
        "loads": "refuses",
        "reason": "why",
        "call": "c",
    }
    edited(run_folder, consumers=[verdict])

    with pytest.raises(InputError) as caught:
        install(run_folder, comfyui=program("main.py", "comfy/"))
    assert lines(caught) == ["error: cyberpunk: ComfyUI would not load it: why"]
