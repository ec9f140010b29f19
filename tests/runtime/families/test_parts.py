"""A base in several files, and weights in fewer bits: what people download of a large model, by tiny Qwen-Image."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest
import torch
from diffusers import AutoencoderKLQwenImage
from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers
from safetensors.torch import load_file, save_file
from torch import Tensor

from lorac import Base, Experiment, Fit, Images, LoRA, Train
from lorac.compile import compile_experiment
from runtime import plan, preflight
from runtime.__main__ import parser, places
from runtime.errors import InputError, PlanError
from runtime.families import inspect, qwen_image, wan_vae
from runtime.lora_files.bases import opened
from runtime.safeio.digest import sha256_file
from tests import single_files
from tests.single_files.qwen_image import wan_name

FP8 = torch.float8_e4m3fn
WEIGHT = "transformer_blocks.0.attn.to_q.weight"
PLACES = [
    (str(level), kind, str(number))
    for level in range(4)
    for kind, count in (("resnets", 3), ("upsamplers", int(level < 3)))
    for number in range(count)
]
"""Of the published decoder, as `wan_name` takes them."""
STEM = WEIGHT.removesuffix(".weight")


@attrs.frozen
class Files:
    """Tiny Qwen-Image's components in files of their own, and its vocabulary's folder."""

    transformer: Path
    text_encoder: Path
    vae: Path
    tokenizer: Path

    @property
    def others(self) -> list[Path]:
        return [self.tokenizer, self.vae, self.text_encoder]

    def found(self) -> inspect.Found:
        return inspect.inspect(self.transformer, sha256_file, others=self.others)

    def loaded(self, component: str = "transformer") -> dict[str, Tensor]:
        place = getattr(self, component)
        return qwen_image.load(place, self.found().base, component, torch.float32).state_dict()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Files:
    root = tmp_path_factory.mktemp("qwen_image")
    base = qwen_image.tiny(root / "base")
    return Files(**single_files.write_apart("qwen_image", base, root))


@pytest.fixture
def files(whole: Files, tmp_path: Path) -> Files:
    """A copy, to be written to."""
    shutil.copytree(whole.tokenizer, tmp_path / "words" / "tokenizer")
    copied = {
        name: Path(shutil.copy(place, tmp_path))
        for name, place in attrs.asdict(whole).items()
        if place.is_file()
    }
    return Files(**copied, tokenizer=tmp_path / "words")


def rewrite(path: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def refusal(look: Callable[[], object]) -> str:
    with pytest.raises(InputError) as caught:
        look()
    return "\n".join(str(problem) for problem in caught.value.problems)


# ------------------------------------------------------------------------------------------------- which file is what


def test_the_order_and_names_of_the_files_say_nothing(files: Files, tmp_path: Path) -> None:
    first = files.found()
    swapped = attrs.evolve(
        files,
        vae=files.vae.rename(tmp_path / "a text encoder.safetensors"),
        text_encoder=files.text_encoder.rename(tmp_path / "vae.safetensors"),
    )
    other = inspect.inspect(files.transformer, sha256_file, others=swapped.others[::-1])

    assert other.base == first.base
    assert (other.parts["vae"], other.parts["text_encoder"]) == (swapped.vae, swapped.text_encoder)


def test_a_whole_file_lends_what_another_lacks(files: Files, tmp_path: Path) -> None:
    base = files.tokenizer.parent / "base"
    bundle = single_files.write("qwen_image", qwen_image.tiny(base), tmp_path / "everything.safetensors")
    found = inspect.inspect(files.transformer, sha256_file, others=[bundle])

    assert found.parts == {"text_encoder": bundle, "vae": bundle}
    ours = qwen_image.load(bundle, found.base, "vae", torch.float32).state_dict()
    assert all(torch.equal(tensor, ours[name]) for name, tensor in files.loaded("vae").items())


def test_what_is_no_part_is_told_and_what_is_missing_too(files: Files, tmp_path: Path) -> None:
    save_file({"lora_A.weight": torch.zeros(1)}, tmp_path / "lora.safetensors")

    def with_others(*others: Path) -> str:
        return refusal(lambda: inspect.inspect(files.transformer, sha256_file, others=others))

    assert "lora.safetensors: holds nothing that Qwen-Image still takes" in with_others(
        tmp_path / "lora.safetensors"
    )
    assert "2.safetensors: holds nothing" in with_others(
        *files.others, Path(shutil.copy(files.vae, tmp_path / "2.safetensors"))
    )
    assert "gone.safetensors: is not here" in with_others(tmp_path / "gone.safetensors")
    assert "is a Qwen-Image file without Qwen2.5-VL, the VAE" in with_others()
    assert "without the VAE" in with_others(files.text_encoder)
    folder = qwen_image.tiny(tmp_path / "folder")
    assert "is a whole base" in refusal(lambda: inspect.inspect(folder, sha256_file, others=files.others))


def test_a_vocabulary_that_is_nowhere_is_told(files: Files) -> None:
    base = inspect.inspect(files.transformer, sha256_file, others=[files.vae, files.text_encoder]).base

    told = refusal(lambda: qwen_image.load_tokenizers(files.transformer, base))
    assert "tokenizer: is not there, and a single file holds no vocabulary" in told


def test_a_relative_with_more_tensors_is_not_taken_for_it(files: Files) -> None:
    rewrite(files.transformer, lambda tensors: tensors.update({"__index_timestep_zero__": torch.zeros(1)}))

    assert "is a relative of Qwen-Image: it also has __index_timestep_zero__" in refusal(files.found)


def test_every_tensor_that_a_file_lacks_is_named(files: Files) -> None:
    found = files.found().base

    def cut(tensors: dict[str, Tensor]) -> None:
        del tensors["decoder.conv1.weight"], tensors["encoder.head.2.bias"]

    rewrite(files.vae, cut)
    told = refusal(lambda: qwen_image.load(files.vae, found, "vae", torch.float32))
    assert "has no tensor decoder.conv_in.weight" in told
    assert "has no tensor encoder.conv_out.bias" in told


# -------------------------------------------------------------------------------------------------------------- names


def test_the_text_encoder_s_newer_names_are_read_too(files: Files) -> None:
    before = files.loaded("text_encoder")

    def renamed(tensors: dict[str, Tensor]) -> None:
        for name in list(tensors):
            newer = name.replace("model.", "model.language_model.", 1).replace("visual.", "model.visual.", 1)
            tensors[newer] = tensors.pop(name)

    rewrite(files.text_encoder, renamed)
    after = files.loaded("text_encoder")
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_wan_s_names_become_what_diffusers_makes_of_them() -> None:
    """Of the published size, the only one that its converter knows."""
    with torch.device("meta"):
        ours = AutoencoderKLQwenImage.from_config(wan_vae.PUBLISHED).state_dict()
    theirs = {wan_name(name, PLACES): name for name in ours}

    assert len(theirs) == len(ours) == 194
    assert {wan_vae.renamed(name, blocks=2): name for name in theirs} == convert_wan_vae_to_diffusers(
        {name: name for name in theirs}
    )
    assert all(wan_vae.renamed(name, blocks=2) == mine for name, mine in theirs.items())


def test_the_autoencoder_s_file_of_the_diffusers_folder_will_do(files: Files, tmp_path: Path) -> None:
    before = files.loaded("vae")
    folder = qwen_image.tiny(tmp_path / "folder")
    theirs = attrs.evolve(files, vae=folder / "vae" / "diffusion_pytorch_model.safetensors")

    after = theirs.loaded("vae")
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_the_published_sizes_are_known_by_names_and_shapes() -> None:
    published = qwen_image.published()
    with torch.device("meta"):
        built = {name: qwen_image.build(published, name).state_dict() for name in qwen_image.COMPONENTS}
    names = {
        "transformer": lambda name: f"model.diffusion_model.{name}",
        "text_encoder": lambda name: f"text_encoders.qwen25_7b.transformer.model.{name}",
        "vae": lambda name: f"vae.{wan_name(name, PLACES)}",
    }
    shapes = {names[of](name): tuple(one.shape) for of, mine in built.items() for name, one in mine.items()}

    assert qwen_image.recognise(shapes)
    assert qwen_image.architecture(shapes) == published


# --------------------------------------------------------------------------------------------------------- fewer bits


def test_fp8_is_read_as_it_was_cast(files: Files) -> None:
    before = files.loaded()
    rewrite(files.transformer, lambda tensors: tensors.update({WEIGHT: tensors[WEIGHT].to(FP8)}))

    assert torch.equal(files.loaded()[WEIGHT], before[WEIGHT].to(FP8).float())


@pytest.mark.parametrize(
    ("scale", "beside"),
    [
        (
            f"{STEM}.scale_weight",
            {f"{STEM}.scale_input": torch.ones(()), "scaled_fp8": torch.empty(2).to(FP8)},
        ),
        (f"{STEM}.weight_scale", {f"{STEM}.comfy_quant": torch.zeros(9, dtype=torch.uint8)}),
    ],
)
@pytest.mark.parametrize("by_row", [False, True])
def test_fp8_with_a_scale_is_multiplied_by_it(
    scale: str, beside: dict[str, Tensor], by_row: bool, files: Files
) -> None:
    before = files.loaded()
    rows = len(before[WEIGHT])
    factor = torch.linspace(0.5, 2, rows) if by_row else torch.tensor([0.25])
    in_fp8 = {WEIGHT: before[WEIGHT].to(FP8), scale: factor, **beside}
    rewrite(files.transformer, lambda tensors: tensors.update(in_fp8))
    after = files.loaded()

    assert torch.equal(after[WEIGHT], in_fp8[WEIGHT].float() * (factor[:, None] if by_row else 0.25))
    assert all(torch.equal(after[name], before[name]) for name in before if name != WEIGHT)


def test_weights_that_are_packed_tighter_are_refused_before_anything_is_planned(files: Files) -> None:
    packed = {WEIGHT: torch.zeros(64, 32, dtype=torch.uint8)}
    rewrite(files.transformer, lambda tensors: tensors.update(packed))

    assert "holds 1 weights in another form than floats" in refusal(files.found)


def test_a_transformer_alone_is_enough_to_merge_into_unless_its_weights_have_scales(files: Files) -> None:
    names = {("transformer", name) for name in files.loaded()}
    with opened(files.transformer, sha256_file) as model:
        assert model.weights.keys() == names

    rewrite(files.transformer, lambda tensors: tensors.update({f"{STEM}.scale_weight": torch.ones(())}))
    assert "holds weights with scales" in refusal(lambda: opened(files.transformer, sha256_file).__enter__())


# ----------------------------------------------------------------------------------------------- from a spec to a run


def test_a_plan_holds_every_file_to_its_contents_and_says_where_it_is(
    files: Files, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    of = planned(files, tiny_data)
    where = places(of, parser().parse_args(["plan.json"]))

    assert of.outputs.places.parts == {
        "text_encoder": "text_encoder.safetensors",
        "vae": "vae.safetensors",
        "tokenizer": "words",
    }
    preflight.check(of, where)
    for file in (files.vae, files.tokenizer / "tokenizer" / "tokenizer_config.json"):
        kept = file.read_bytes()
        file.write_bytes(kept + b" ")
        with pytest.raises(PlanError, match="the base changed since planning"):
            preflight.check(of, where)
        file.write_bytes(kept)
    files.vae.rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="the base's vae is not here"):
        preflight.check(of, where)


def planned(files: Files, data: Path) -> plan.Plan:
    experiment = Experiment(
        name="tiny",
        base=Base(str(files.transformer), parts=[str(one) for one in files.others]),
        data=Images(str(data), resolution=64),
        adapter=LoRA(rank=2),
        train=Train(effective_batch=1, steps=1),
        fit=Fit(card="cpu", threads=1),
    )
    return compile_experiment(experiment, files.transformer.parent, files.transformer.parent)
