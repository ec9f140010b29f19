"""What Stable Diffusion 2 and XL have of their own: OpenCLIP's towers, v by convention, sizes, crops, the refiner."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from open_clip.transformer import TextTransformer
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from runtime import plan
from runtime import step as train_step
from runtime.data import pixels
from runtime.data.views import PLAIN, View
from runtime.errors import InputError
from runtime.families import inspect, ldm, sd2, sdxl, unet
from runtime.families.protocol import Wish
from runtime.preflight import Where
from runtime.run import adapt, load
from runtime.safeio.digest import sha256_file
from tests import single_files
from tests.runtime.plans import tiny_plan
from tests.single_files import sdxl as sdxl_file

PROMPT = "noise 3, tiny style"


@pytest.fixture(scope="module")
def xl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sdxl.tiny(tmp_path_factory.mktemp("xl"))


# ------------------------------------------------------------------------------------------------ OpenCLIP's towers


@pytest.fixture(scope="module")
def open_clip() -> TextTransformer:
    """open_clip's own text tower of three layers, random."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        tower = TextTransformer(vocab_size=1024, width=64, heads=1, layers=3, output_dim=64)
        for parameter in tower.parameters():
            parameter.data.normal_(std=0.2)
    return tower.eval()


def penultimate(tower: TextTransformer, ids: Tensor) -> tuple[Tensor, Tensor]:
    """open_clip's state before its last layer, (N, 77, 64), and its answer (N, 64)."""
    kept: list[Tensor] = []
    hook = tower.transformer.resblocks[-2].register_forward_hook(lambda m, args, out: kept.append(out))
    with torch.no_grad():
        answer = tower(ids)
    hook.remove()
    return kept[0], answer


def read_tower(of: Any, tower: TextTransformer, stem: str, component: str, config: dict[str, Any]) -> Any:
    held = {stem + name: tensor for name, tensor in tower.state_dict().items()}
    module = of.build({component: config}, component).eval()
    module.load_state_dict(
        {
            n: t
            for n, t in of.tower_weights(component, list(held), held.__getitem__).items()
            if n in module.state_dict()
        }
    )
    return module


def test_sd2_reads_captions_as_open_clip_does_without_its_last_layer(open_clip: TextTransformer) -> None:
    shapes = {ldm.OPEN_CLIP + name: tuple(t.shape) for name, t in open_clip.state_dict().items()}
    config = ldm.open_clip_config(shapes)
    module = read_tower(sd2, open_clip, ldm.OPEN_CLIP, "text_encoder", config | {"num_hidden_layers": 2})
    tokens = sd2.tokenize({"text_encoder": sd2.clip_vocabulary.tokenizer(1024, sd2.PAD)}, [PROMPT, ""])

    with torch.no_grad():
        mine = sd2.encode_text({"text_encoder": module}, tokens)["hidden"]
        theirs = open_clip.ln_final(penultimate(open_clip, tokens["tokens"])[0])

    assert torch.allclose(mine, theirs, atol=1e-4)


def test_sdxl_s_second_tower_is_open_clip_s_pooled_answer_and_state(
    open_clip: TextTransformer, xl: Path
) -> None:
    shapes = {sdxl.BIG_G + name: tuple(t.shape) for name, t in open_clip.state_dict().items()}
    config = ldm.open_clip_config(shapes, sdxl.BIG_G) | {"projection_dim": 64}
    base = inspect.inspect(xl, sha256_file).base
    modules = {
        "text_encoder": sdxl.load(xl, base, "text_encoder", torch.float32),
        "text_encoder_2": read_tower(sdxl, open_clip, sdxl.BIG_G, "text_encoder_2", config),
    }
    tokens = sdxl.tokenize(sdxl.load_tokenizers(xl, base), [PROMPT, ""])

    with torch.no_grad():
        mine = sdxl.encode_text(modules, tokens)
    hidden, pooled = penultimate(open_clip, tokens["tokens_2"])

    assert torch.allclose(mine["hidden"][..., 64:], hidden, atol=1e-4)
    assert torch.allclose(mine["pooled"], pooled, atol=1e-4)


# ------------------------------------------------------------------------------------------------------ SD 2's v


@pytest.mark.parametrize("said", ["epsilon", "v_prediction"])
def test_a_folder_of_sd2_says_what_it_predicts_and_a_single_file_is_taken_for_a_768_v(
    said: str, tmp_path: Path
) -> None:
    folder = sd2.tiny(tmp_path / "base")
    scheduler = folder / "scheduler" / "scheduler_config.json"
    scheduler.write_text(json.dumps(json.loads(scheduler.read_text()) | {"prediction_type": said}))
    one = single_files.write("sd2", folder, tmp_path / "one.safetensors")

    assert inspect.inspect(folder, sha256_file).base.prediction_type == said
    assert inspect.inspect(one, sha256_file).base.prediction_type == "v_prediction"
    assert sd2.metadata(inspect.inspect(folder, sha256_file).base)["ss_base_model_version"] == (
        "sd_v2_v" if said == "v_prediction" else "sd_v2"
    )


# ---------------------------------------------------------------------------------------------- SDXL's sizes and crops


@pytest.mark.parametrize(
    ("size", "bucket"), [((1000, 640), (512, 512)), ((300, 800), (448, 576)), ((64, 64), (64, 64))]
)
@pytest.mark.parametrize(
    "view",
    [PLAIN, View(left=0.2, top=0.9), View(left=0.2, zoom=0.15), View(left=0.2, top=0.1, zoom=0.1, flip=True)],
)
def test_the_crop_that_sdxl_is_told_is_the_one_that_is_made(
    size: tuple[int, int], bucket: tuple[int, int], view: View
) -> None:
    """A picture whose colour is its own pixel's place shows where it was cropped."""
    item = plan.Item(
        path="a.png", sha256="0" * 64, width=size[0], height=size[1], caption="", repeats=1, bucket=bucket
    )
    place = np.broadcast_to(np.linspace(0, 1, size[0], dtype=np.float32), size[::-1])
    down = np.broadcast_to(np.linspace(0, 1, size[1], dtype=np.float32)[:, None], size[::-1])
    x, y = (np.asarray(pixels.fitted(Image.fromarray(a), bucket, view)) for a in (place, down))
    scale = (x[0, -1] - x[0, 0]) * size[0] / bucket[0]

    height, width, top, left, *target = sdxl.conditions(item, pixels.corner(item, view))["time_ids"].tolist()

    assert (width, height, target) == (*size, [bucket[1], bucket[0]])
    first = 1 - x[0, -1] if view.flip else x[0, 0]
    assert abs(first * size[0] / scale - left) <= 1.5
    assert abs(y[0, 0] * size[1] / scale - top) <= 1.5


def test_sizes_and_pooled_words_reach_the_unet(xl: Path) -> None:
    base = inspect.inspect(xl, sha256_file).base
    modules = {"unet": sdxl.load(xl, base, "unet", torch.float32)}
    generator = torch.Generator().manual_seed(0)
    batch = {
        name: torch.randn(tensor.shape, generator=generator) if tensor.is_floating_point() else tensor
        for name, tensor in sdxl.example(base.architecture, 1, (64, 64), False).items()
    }
    told = [batch, batch | {"time_ids": batch["time_ids"] + 100}, batch | {"pooled": batch["pooled"] * 2}]

    with torch.no_grad():
        losses = [sdxl.loss(modules, one, base, plan.Objective()).item() for one in told]

    assert len({round(loss, 9) for loss in losses}) == 3


# ------------------------------------------------------------------------------------------------- SDXL in diffusers


def test_diffusers_draws_the_picture_of_sdxl_that_we_draw(xl: Path) -> None:
    base = inspect.inspect(xl, sha256_file).base
    modules = {name: sdxl.load(xl, base, name, torch.float32) for name in sdxl.COMPONENTS}
    wish = Wish(
        prompt=PROMPT, negative_prompt="blurry", seeds=[11], steps=4, guidance=4.0, width=64, height=64
    )
    pipe = DiffusionPipeline.from_pretrained(xl, dtype=torch.float32, add_watermarker=False)
    pipe.scheduler = unet.solver(base)
    pipe.set_progress_bar_config(disable=True)

    with torch.no_grad():
        ours = sdxl.sample(modules, sdxl.load_tokenizers(xl, base), base, wish)[0]
    theirs = pipe(
        PROMPT,
        negative_prompt="blurry",
        num_inference_steps=4,
        guidance_scale=4.0,
        width=64,
        height=64,
        generator=torch.Generator("cpu").manual_seed(11),
    ).images[0]

    assert np.abs(np.asarray(ours, np.int16) - np.asarray(theirs, np.int16)).max() <= 1


def test_both_of_sdxl_s_text_encoders_learn_and_nothing_is_put_where_nothing_would(
    xl: Path, tiny_data: Path, tmp_path: Path
) -> None:
    """Every adapter gets a gradient; CLIP-L's last layer, which the UNet never hears of, has none."""
    modules = {"unet": 102, "text_encoder": 4, "text_encoder_2": 8}
    of = tiny_plan(xl, tiny_data, targets="qkv", text_encoder=True, modules=modules)
    where = Where(base=xl, data=tiny_data, output=tmp_path, log=tmp_path, cache=tmp_path)
    built, tokenizers = load(sdxl, of.program, where, torch.device("cpu"))  # type: ignore[arg-type]
    trainee = adapt(sdxl, built, of.program)  # type: ignore[arg-type]
    batch = sdxl.example(of.program.base.architecture, 2, (64, 64), True) | sdxl.tokenize(
        tokenizers, [PROMPT, "noise 1"]
    )
    generator = torch.Generator().manual_seed(0)
    batch = {
        n: torch.randn(t.shape, generator=generator) if t.is_floating_point() else t for n, t in batch.items()
    }

    train_step.gradients(trainee, [(batch, range(2))], 2)

    gradients = {name: weight.grad for name, weight in trainee.masters.items() if name.endswith(".B")}
    assert not [name for name, grad in gradients.items() if grad is None or not grad.any()]
    assert {name.partition(".")[0] for name in gradients} == set(modules)
    assert not [name for name in gradients if name.startswith("text_encoder.encoder.layers.1.")]


# ------------------------------------------------------------------------------------------------------ the refiner


def test_the_refiner_is_refused_by_name(xl: Path, tmp_path: Path) -> None:
    folder = tmp_path / "refiner"
    folder.mkdir()
    index = json.loads((xl / "model_index.json").read_text()) | {
        "text_encoder": [None, None],
        "tokenizer": [None, None],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    one = tmp_path / "refiner.safetensors"
    save_file({f"{sdxl.REFINER_BIG_G}token_embedding.weight": torch.zeros(2, 2)}, one)

    for path in (folder, one):
        with pytest.raises(InputError) as caught:
            inspect.inspect(path, sha256_file)
        assert [problem.where for problem in caught.value.problems] == [str(path)]
        assert "refiner" in str(caught.value)


def test_an_inpainting_model_is_of_no_family(xl: Path, tmp_path: Path) -> None:
    """Nine channels in: the train step has only four."""
    tensors = sdxl_file.original(xl)
    entry = f"{ldm.UNET}input_blocks.0.0.weight"
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}

    assert sdxl.recognise(shapes)
    assert not sdxl.recognise(shapes | {entry: (64, 9, 3, 3)})
    assert sdxl.prediction_type(sdxl.architecture(shapes)) == "epsilon"
    assert sdxl.prediction_type(sdxl.architecture(shapes | {sdxl.V_MARK: (0,)})) == "v_prediction"
