"""From a file to a spec: recognised by contents, nothing dropped, nothing executed, nothing replaced."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from lorac.importers import IMPORTERS, importer, ledger, parse
from lorac.importers.importing import Imported, import_file, recognised
from lorac.importers.kohya_keys import KEYS
from lorac.load import load
from lorac.spec import Experiment
from runtime.errors import InputError, LoracError, SpecError
from tests.lorac.calling import call
from tests.lorac.importers.configs import AI_TOOLKIT, AXOLOTL, CONFIGS, KOHYA, SIMPLETUNER

ROOT = Path(__file__).parents[3]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


Write = Callable[[str], Path]


@pytest.fixture
def written(folder: Path) -> Write:
    """Writes an importer's config, with the files that it names, under names that say nothing."""

    def write(name: str) -> Path:
        text, others = CONFIGS[name]
        for path, content in others.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(content, encoding="utf-8")
        (folder / "config.txt").write_text(text, encoding="utf-8")
        return Path("config.txt")

    return write


def loaded(imported: Imported) -> Experiment:
    """The one experiment of the spec that was written."""
    (one,) = load(imported.path)
    return one.experiment


def fates(imported: Imported) -> dict[str, tuple[str, str]]:
    return {fate.key: (fate.kind, fate.what) for fate in imported.draft.fates}


def test_kohya_s_files_beside_a_transformer_are_the_base_s_parts(folder: Path) -> None:
    files = {"clip_l": "te/clip_l.safetensors", "t5xxl": "te/t5.safetensors", "ae": "/models/ae.safetensors"}
    said = "".join(f'{key} = "{value}"\n' for key, value in files.items())
    Path("c.toml").write_text(said + KOHYA)
    imported = import_file(Path("c.toml"))

    parts = ("../te/clip_l.safetensors", "../te/t5.safetensors", "/models/ae.safetensors")
    assert loaded(imported).base.parts == parts
    assert {fates(imported)[key] for key in files} == {("carried", "base.parts")}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_becomes_a_spec_that_loads(name: str, written: Write) -> None:
    source = written(name)
    imported = import_file(source)
    experiment = loaded(imported)
    assert imported.title == importer(name).TITLE
    assert imported.path == Path("specs") / f"{experiment.name}.py"
    assert experiment == ledger.experiment(
        {field: one.value for field, one in imported.draft.settings.items()}, imported.draft.kinds
    )


@pytest.mark.parametrize("name", CONFIGS)
def test_every_key_of_the_source_and_its_companions_has_a_fate(name: str, written: Write) -> None:
    imported = import_file(written(name))
    told = list(fates(imported))
    assert len(told) == len(imported.draft.fates)
    for path in ledger.leaves(parse.read(Path("config.txt"))):
        shown = ledger.shown(path)
        assert any(shown == key or shown.endswith(f".{key}") for key in told), shown
    assert imported.companions.keys() == importer(name).companions(parse.read(Path("config.txt"))).keys()


@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_not_carried_is_in_the_spec_and_on_the_terminal(name: str, written: Write) -> None:
    source = written(name)
    called = call("import", str(source))
    assert called.code == 0, called.err
    (spec,) = Path("specs").glob("*.py")
    assert called.out.endswith(f"lan it: lorac plan {spec}\n")
    left = import_file(source, Path("again.py")).draft.of("left")
    assert left
    for fate in left:
        assert f"# {fate.key} = " in spec.read_text()
        assert fate.key in called.out


def test_a_key_that_no_table_has_is_told_as_unknown(folder: Path) -> None:
    Path("c.toml").write_text(KOHYA + "\n[more]\nflux_capacitor = 88\n")
    assert fates(import_file(Path("c.toml")))["more.flux_capacitor"] == ("left", ledger.UNKNOWN)


def test_a_value_that_lorac_refuses_is_left_with_its_rule_and_not_replaced_by_a_default(folder: Path) -> None:
    Path("c.toml").write_text(KOHYA.replace("network_dim = 32", "network_dim = 4096"))
    imported = import_file(Path("c.toml"))
    assert fates(imported)["network.network_dim"] == (
        "left",
        "adapter.rank must be between 1 and 1024, got 4096",
    )
    assert "adapter.rank" not in imported.draft.settings


def test_values_that_contradict_each_other_are_left(folder: Path) -> None:
    Path("c.toml").write_text(KOHYA.replace("lr_warmup_steps = 0.1", "lr_warmup_steps = 5000"))
    imported = import_file(Path("c.toml"))
    assert fates(imported)["optimizer.lr_warmup_steps"][0] == "left"
    assert loaded(imported).train.warmup_steps == 0


# ------------------------------------------------------------------------------------------------- recognition


@pytest.mark.parametrize("name", CONFIGS)
def test_exactly_one_importer_recognises_each_config(name: str, written: Write) -> None:
    config = parse.read(written(name))
    assert [one for one in IMPORTERS if importer(one).recognise(config)] == [name]


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"a": 1, "b": 2}, "is no trainer's config that lorac knows: its keys are a, b"),
        ([1, 2], "it is a list"),
        ({"model_family": "flux", "model_type": "lora", "network_dim": 4, "train_batch_size": 1}, "could be"),
    ],
)
def test_none_or_several_is_one_error(config: Any, says: str) -> None:
    with pytest.raises(InputError, match=says) as raised:
        recognised(config, Path("x.yaml"))
    assert len(raised.value.problems) == 1 and raised.value.problems[0].hint


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"hello", "no `key: value`"),
        (b"\x89PNG\r\n\x1a\n", "neither a safetensors file nor UTF-8"),
        (b"a: 1\na: 2\n", "'a' is given twice"),
        (b"a = 1\na = 2\n", "not TOML"),
        (b'{"a": 1, "a": 2}', "twice"),
        (b"a: !!python/object/apply:os.system ['true']\n", "has a tag that would have Python run code"),
        (b"a: [1, 2\n", "not YAML"),
        (b"a: &a [*a]\n", "recursive"),
        (b"[" * 5000, "not YAML"),
        (b"x" * (parse.LIMIT + 1), "larger than"),
    ],
)
def test_a_broken_file_is_one_clear_error(content: bytes, says: str, folder: Path) -> None:
    Path("c.yaml").write_bytes(content)
    with pytest.raises(InputError) as raised:
        import_file(Path("c.yaml"))
    (problem,) = raised.value.problems
    assert says in problem.what and problem.where.startswith("c.yaml")
    assert not Path("specs").exists()


def test_aliases_do_not_unfold_without_end(folder: Path) -> None:
    lines = ["base_model: x", "lora_rank: 1", "a0: &a0 {k: 1}"]
    lines += [f"a{n}: &a{n} {{{', '.join(f'k{i}: *a{n - 1}' for i in range(9))}}}" for n in range(1, 9)]
    Path("bomb.yaml").write_text("\n".join(lines))
    with pytest.raises(InputError, match="more than"):
        import_file(Path("bomb.yaml"))


def test_a_missing_companion_is_told(folder: Path) -> None:
    Path("c.json").write_text(SIMPLETUNER)
    kind, why = fates(import_file(Path("c.json")))["data_backend_config"]
    assert kind == "left" and "not found" in why


# --------------------------------------------------------------------------------------------------- the spec


def test_nothing_is_replaced(written: Write) -> None:
    source = written("kohya")
    imported = import_file(source)
    imported.path.write_text("mine")
    with pytest.raises(SpecError, match="exists already"):
        import_file(source)
    assert imported.path.read_text() == "mine"


def test_paths_are_as_seen_from_the_spec_and_absolute_ones_stay(folder: Path) -> None:
    (folder / "img").mkdir()
    (folder / "configs").mkdir()
    text = AI_TOOLKIT.replace("models/v1-5.safetensors", "/srv/base.safetensors")
    Path("configs/c.yaml").write_text(text)
    experiment = loaded(import_file(Path("configs/c.yaml"), Path("a/b/spec.py")))
    assert experiment.data.path == "../../img"  # type: ignore[union-attr]
    assert experiment.base.path == "/srv/base.safetensors"


def test_a_hub_name_stays_and_is_told(folder: Path) -> None:
    Path("c.yaml").write_text(AI_TOOLKIT.replace("models/v1-5.safetensors", "black-forest-labs/FLUX.1-dev"))
    imported = import_file(Path("c.yaml"))
    assert loaded(imported).base.path == "black-forest-labs/FLUX.1-dev"
    assert any("hub" in line for line in imported.draft.todo)


NASTY = [
    '"""\nimport pathlib; pathlib.Path("pwned").touch()\n"""',
    "x\n)\nimport pathlib; pathlib.Path('pwned').touch()\n#",
    "{{ ''.__class__ }}{% raw %}",
    "\u2028import os\u2029",
    "\\' + str(open('pwned', 'w')) + '",
    "a'b\"c\\",
    "x\ry\x0cz\x85",
]


@pytest.mark.parametrize("text", NASTY)
def test_no_text_of_a_config_becomes_code(text: str, folder: Path) -> None:
    config = yaml.safe_load(AI_TOOLKIT)
    process = config["config"]["process"][0]
    config["config"]["name"] = text
    process["datasets"][0]["folder_path"] = text
    process["sample"]["prompts"] = [text, text]
    process["trigger_word"] = text
    process["train"][text] = text
    Path("c.yaml").write_text(yaml.safe_dump(config))
    imported = import_file(Path("c.yaml"))
    loaded(imported)
    assert not Path("pwned").exists()
    lines = imported.spec.split("\n")
    assert all(line.isprintable() for line in lines)
    assert not any(line.lstrip().startswith(("import", ")\nimport")) for line in lines)


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**20), 10**20),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from([*NASTY, "1e-4", "cosine", "bf16", "AdamW8bit", "Prodigy", "512,768", "a=1", "auto"]),
    st.lists(
        st.one_of(st.integers(), st.text(max_size=4), st.dictionaries(st.text(max_size=3), st.integers())),
        max_size=3,
    ),
    st.dictionaries(st.text(max_size=4), st.integers(), max_size=2),
)


def mixed(name: str, draw: st.DataObject) -> Any:
    """A config of that trainer with some values replaced by any."""
    path = Path("base.txt")
    path.write_text(CONFIGS[name][0])
    config = parse.read(path)

    def walk(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: walk(inner) for key, inner in value.items()}
        if isinstance(value, list) and any(isinstance(inner, dict) for inner in value):
            return [walk(inner) for inner in value]
        return draw.draw(VALUES) if draw.draw(st.integers(0, 3)) == 0 else value

    return walk(config)


@pytest.mark.parametrize("name", CONFIGS)
@settings(
    max_examples=40,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # a whole config takes minutes to shrink
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(draw=st.data())
def test_whatever_a_config_says_the_spec_loads_or_the_error_is_one_of_ours(
    name: str, draw: st.DataObject, folder: Path
) -> None:
    config = mixed(name, draw)
    Path("c.yaml").write_text(yaml.safe_dump(config, allow_unicode=True), encoding="utf-8", errors="replace")
    Path("out.py").unlink(missing_ok=True)
    try:
        imported = import_file(Path("c.yaml"), Path("out.py"))
    except LoracError:
        return
    load(Path("out.py"))
    assert not Path("pwned").exists()
    assert len({fate.key for fate in imported.draft.fates}) >= 1


@pytest.mark.parametrize("value", [math.nan, -math.inf, "nan", True, None, "ten"])
def test_what_is_no_finite_number_is_not_carried(value: Any) -> None:
    with pytest.raises(ledger.CannotCarry, match="is not a number"):
        ledger.number(value)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.dictionaries(st.sampled_from(sorted(KEYS)), VALUES, max_size=12))
def test_any_keys_of_sd_scripts_make_a_spec(values: dict[str, Any], folder: Path) -> None:
    config = {"network_module": "networks.lora", "train_batch_size": 1, **values}
    draft = importer("kohya").convert(config, {})
    assert {fate.key.split(".")[0].split("[")[0] for fate in draft.fates} == set(config)


# ------------------------------------------------------------------------------------------------ the command


def test_json_names_every_key(written: Write) -> None:
    import json

    called = call("import", str(written("axolotl")), "--json", "--out", "a.py")
    answer = json.loads(called.out)
    assert answer["path"] == "a.py" and answer["format"] == importer("axolotl").TITLE
    assert {row["key"] for row in answer["not_carried"]} == {"special_tokens.pad_token"}
    assert {"key": "lora_r", "value": "32", "field": "adapter.rank"} in answer["carried"]
    total = sum(len(answer[kind]) for kind in ("carried", "as_lorac_does", "not_carried"))
    assert total == len(ledger.leaves(yaml.safe_load(AXOLOTL)))


def test_keys_that_a_spec_needs_not_are_one_line_and_all_lists_each(written: Write) -> None:
    source = written("kohya")
    ours = import_file(source, Path("a.py")).draft.of("ours")
    assert len(ours) > 1

    said = call("import", str(source), "--out", "b.py").out.splitlines()
    (line,) = [one for one in said if one.startswith("not needed")]
    assert line.startswith(f"not needed ({len(ours)}): ") and line.endswith("--all lists them")
    listed = call("import", str(source), "--out", "c.py", "--all").out
    for fate in ours:
        assert f"  {fate.key} = " in listed and not any(one.startswith(f"  {fate.key} = ") for one in said)


def test_importing_needs_no_torch() -> None:
    names = ", ".join(["lorac.importers.importing", "lorac.importers.show", *IMPORTERS.values()])
    code = f"import sys, {names}\nprint(sorted({{'torch', 'transformers', 'diffusers', 'numpy'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "[]\n"
