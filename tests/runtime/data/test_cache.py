"""Encoding once, by content, and again where damaged; batches whose samples never depend on each other."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import attrs
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from runtime import plan
from runtime.data import cache, captions
from runtime.data.cache import encode
from runtime.data.entries import Entries
from runtime.data.order import Order, micro_batches
from runtime.data.views import PLAIN
from runtime.errors import DivergedError, MachineError
from runtime.safeio.digest import sha256_file
from tests.faults import fault

BUCKETS = [(16, 16), (16, 16), (24, 8)]


class Family:
    """A family of two small random networks that counts what it is asked to encode."""

    NAME, VAE, TEXT_ENCODERS = "fake", "vae", ("text_encoder",)

    def __init__(self) -> None:
        self.pictures = 0
        self.texts: list[str] = []

    def tokenize(self, tokenizers, captions):
        self.texts += captions
        ids = [[ord(c) % 50 for c in caption.ljust(4)[:4]] for caption in captions]
        return {"tokens": torch.tensor(ids)}

    def encode_text(self, modules, tokens):
        return {"hidden": modules["text_encoder"](tokens["tokens"])}

    def encode_picture(self, modules, pixels):
        self.pictures += len(pixels)
        mean = modules["vae"](pixels)
        return {"latent_mean": mean, "latent_std": mean.abs()}

    def conditions(self, item, corner):
        return {}

    def draw(self, item, generator, objective):
        return {"noise": torch.randn(item["latent_mean"].shape, generator=generator)}


def modules() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {"vae": nn.Conv2d(3, 4, 8, 8), "text_encoder": nn.Embedding(50, 6)}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    for number, (width, height) in enumerate(BUCKETS):
        noise = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{number}.png")
    return folder


def program(data: Path, flip: bool = False, caption_dropout: float = 0.0, targets: str = "unet"):
    """The parts of a plan's program that the cache looks at."""
    items = tuple(
        plan.Item(
            path=f"{number}.png",
            sha256=sha256_file(data / f"{number}.png"),
            width=bucket[0],
            height=bucket[1],
            caption=f"c{number}",
            repeats=2,
            bucket=bucket,
        )
        for number, bucket in enumerate(BUCKETS)
    )
    images = plan.Images(
        digest="",
        items=items,
        expected=6,
        resolution=16,
        flip=flip,
        caption_dropout=caption_dropout,
    )
    return SimpleNamespace(
        base=SimpleNamespace(digest="d1", clip_skip=1),
        data=images,
        adapter=SimpleNamespace(targets={targets: ""}, word_embeddings={}),
        train=SimpleNamespace(objective=plan.Objective(snr_gamma=0.0, noise_offset=0.0)),
        versions={"torch": "1"},
    )


def encoded(data: Path, folder: Path, family: Family | None = None, **given):
    return encode(family or Family(), modules(), {}, program(data, **given), data, folder)


def test_each_picture_and_caption_is_encoded_once(data, tmp_path):
    first, second = Family(), Family()
    encoded(data, tmp_path / "cache", first)
    encoded(data, tmp_path / "cache", second)

    assert (first.pictures, first.texts) == (3, ["c0", "c1", "c2"])
    assert (second.pictures, second.texts) == (0, [])


def test_the_cache_does_not_care_where_the_pictures_are(data, tmp_path):
    encoded(data, tmp_path / "cache")
    shutil.move(data, tmp_path / "elsewhere")

    family = Family()
    encoded(tmp_path / "elsewhere", tmp_path / "cache", family)
    assert family.pictures == 0


def test_flips_and_the_empty_caption_are_encoded_where_they_are_needed(data, tmp_path):
    family = Family()
    encoded(data, tmp_path / "cache", family, flip=True, caption_dropout=0.1)

    assert family.pictures == 6
    assert family.texts == ["c0", "c1", "c2", ""]


def test_a_changed_picture_of_the_same_name_and_size_is_encoded_anew(data, tmp_path):
    before = encoded(data, tmp_path / "cache")
    pixels = np.array(Image.open(data / "1.png"))
    pixels[3, 3, 0] ^= 128
    Image.fromarray(pixels).save(data / "1.png")

    family = Family()
    after = encoded(data, tmp_path / "cache", family)
    assert family.pictures == 1
    assert latents(before, 0).equal(latents(after, 0))
    assert not latents(before, 1).equal(latents(after, 1))


@pytest.mark.parametrize(
    "change",
    [
        lambda of: setattr(of.base, "digest", "d2"),
        lambda of: of.versions.update(torch="2"),
        lambda of: setattr(
            of,
            "data",
            attrs.evolve(of.data, items=tuple(attrs.evolve(i, bucket=(8, 8)) for i in of.data.items)),
        ),
    ],
)
def test_whatever_decides_the_latents_is_in_the_key(data, tmp_path, change):
    encoded(data, tmp_path / "cache")
    other, family = program(data), Family()
    change(other)

    encode(family, modules(), {}, other, data, tmp_path / "cache")
    assert family.pictures == 3


def test_the_dtype_is_in_the_key(data, tmp_path):
    encoded(data, tmp_path / "cache")
    family, wide = Family(), {name: module.double() for name, module in modules().items()}

    found = encode(family, wide, {}, program(data), data, tmp_path / "cache")
    assert family.pictures == 3
    assert latents(found, 0).dtype == torch.float64


@fault(
    "a cache entry is half written, emptied, or another's put in its place",
    "it is made again, with a line",
    code=0,
)
def test_damaged_entries_are_made_again_and_told_once(data, tmp_path, capsys):
    before = encoded(data, tmp_path / "cache")
    files = sorted((tmp_path / "cache").rglob("*.safetensors"))
    files[0].write_bytes(files[0].read_bytes()[:-1])
    files[-1].write_bytes(b"")
    shutil.copy(files[1], files[2])  # whole, and of another picture
    capsys.readouterr()

    after = encoded(data, tmp_path / "cache")
    assert all(latents(before, number).equal(latents(after, number)) for number in range(3))
    folder = tmp_path / "cache" / "encoded"
    assert capsys.readouterr().out == f"[WARN] 3 damaged entries of {folder} were made again\n"

    encoded(data, tmp_path / "cache")
    assert capsys.readouterr().out == ""


@fault(
    "a cache entry goes away during a run",
    "it is named; the same command makes it again",
    code=5,
)
def test_an_entry_that_goes_away_during_the_run_is_told(data, tmp_path):
    found = attrs.evolve(encoded(data, tmp_path / "cache"), entries=Entries(tmp_path / "cache" / "encoded"))
    shutil.rmtree(tmp_path / "cache")

    with pytest.raises(MachineError) as caught:
        found.batch(Order(program(data).data, 0, 2).step(0)[:1])
    assert caught.value.lines()[1] == "hint: run the same command again: it is made anew"


@fault(
    "a picture whose latents are not finite",
    "it is named, before training",
    code=6,
)
def test_latents_that_are_not_finite_name_every_picture(data, tmp_path):
    broken = modules()
    with torch.no_grad():
        broken["vae"].bias[0] = float("nan")

    with pytest.raises(DivergedError) as caught:
        encode(Family(), broken, {}, program(data), data, tmp_path / "cache")
    assert caught.value.lines() == [
        *(f"error: {data / f'{number}.png'}: its latents are not finite in float32" for number in range(3)),
        "hint: encode in fp32, or replace the picture",
    ]


def test_progress_counts_what_has_to_be_encoded(data, tmp_path):
    seen = []
    encode(Family(), modules(), {}, program(data), data, tmp_path / "cache", lambda *at: seen.append(at))

    assert seen == [(what, done, 3) for what in ("pictures", "captions") for done in (1, 2, 3)]


# ---------------------------------------------------------------------------------------------------- batches


def latents(found: cache.Encoded, number: int) -> torch.Tensor:
    item = found.program.data.items[number]
    return cache.stored(found.entries, cache.picture_key(found.encoder, item, PLAIN))["latent_mean"]


def test_a_sample_is_the_same_whatever_micro_batch_it_is_in(data, tmp_path):
    found = encoded(data, tmp_path / "cache", flip=True, caption_dropout=0.4)
    samples = Order(found.program.data, 5, 6).step(0)
    alone = {sample.key: found.batch([sample]) for sample in samples}

    for group in micro_batches(samples, 2):
        together = found.batch(group)
        for place, sample in enumerate(group):
            for name, tensor in together.items():
                assert torch.equal(tensor[place], alone[sample.key][name][0]), name


def test_a_batch_stacks_the_flipped_latents_and_the_dropped_captions(data, tmp_path):
    found = encoded(data, tmp_path / "cache", flip=True, caption_dropout=0.5)
    both = {(False, False): 0, (True, False): 0, (False, True): 0, (True, True): 0}
    for step in range(8):
        for sample in Order(found.program.data, 1, 6).step(step):
            both[sample.flip, sample.drop_caption] += 1
            item = found.program.data.items[sample.item]
            batch = found.batch([sample])
            picture = torch.from_numpy(np.array(Image.open(data / item.path))).permute(2, 0, 1) / 127.5 - 1
            picture = picture.flip(-1) if sample.flip else picture
            with torch.no_grad():
                assert torch.allclose(batch["latent_mean"], modules()["vae"](picture[None]), atol=1e-6)
                caption = "" if sample.drop_caption else item.caption
                ids = Family().tokenize({}, [caption])["tokens"]
                assert torch.equal(batch["hidden"], modules()["text_encoder"](ids))
    assert all(both.values())


def test_a_trained_text_encoder_gets_tokens(data, tmp_path):
    found = encoded(data, tmp_path / "cache", targets="text_encoder", caption_dropout=0.5)

    batch = found.batch([s for s in Order(found.program.data, 0, 6).step(0) if s.bucket == (16, 16)])
    assert set(batch) == {"latent_mean", "latent_std", "noise", "tokens"}
    assert batch["tokens"].shape == (4, 4)


def test_masks_weights_and_wordings_come_with_a_sample_whatever_micro_batch_it_is_in(data, tmp_path):
    of = program(data, flip=True)
    mask = np.zeros((16, 16), dtype=np.uint8)
    mask[:8, :8] = 255
    Image.fromarray(mask).save(data / "mask.png")
    first = attrs.evolve(of.data.items[0], mask="mask.png", mask_sha256=sha256_file(data / "mask.png"))
    items = (first, attrs.evolve(of.data.items[1], loss_weight=0.5, caption="a, b"), of.data.items[2])
    worded = {"caption_variants": 4, "shuffle_tags": True}
    of.data = attrs.evolve(of.data, items=items, mask="files", unmasked_weight=0.2, **worded)
    found = encode(Family(), modules(), {}, of, data, tmp_path / "cache")

    seen = set()
    for step in range(6):
        samples = Order(of.data, 1, 6).step(step)
        for group in micro_batches(samples, 2):
            batch = found.batch(group)
            for place, sample in enumerate(group):
                alone = found.batch([sample])
                assert all(torch.equal(alone[name][0], batch[name][place]) for name in batch)
                _, height, width = batch["latent_mean"][place].shape
                wanted = torch.ones(1, height, width)
                if sample.item == 0:
                    quarter = torch.tensor([[[1.0, 0.2], [0.2, 0.2]]])
                    wanted = quarter.flip(-1) if sample.flip else quarter
                assert torch.allclose(batch["loss_mask"][place], wanted)
                assert batch["loss_weight"][place].item() == (0.5 if sample.item == 1 else 1.0)
                text = captions.wording(items[sample.item].caption, of.data, sample.variant)
                seen.add(text)
                with torch.no_grad():
                    ids = Family().tokenize({}, [text])["tokens"][0]
                    assert torch.equal(batch["hidden"][place], modules()["text_encoder"](ids))
    assert seen == {"c0", "a, b", "b, a", "c2"}


AUGMENT = plan.Augment(variants=3, random_crop=True, random_zoom=0.4, color_jitter=0.5, hue_jitter=0.1)


def test_every_view_is_encoded_once_and_its_mask_follows_its_crop_and_its_flip(data, tmp_path):
    """The red of a picture is its own mask, so that what is seen and what counts can be compared."""
    grey = np.random.default_rng(7).integers(0, 256, (4, 6), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    Image.fromarray(np.dstack([grey] * 3)).save(data / "0.png")
    Image.fromarray(grey).save(data / "mask.png")
    of = program(data, flip=True)
    size = {"width": 48, "height": 32, "sha256": sha256_file(data / "0.png")}
    first = attrs.evolve(
        of.data.items[0], mask="mask.png", mask_sha256=sha256_file(data / "mask.png"), **size
    )
    plain = attrs.evolve(AUGMENT, color_jitter=0.0, hue_jitter=0.0)
    of.data = attrs.evolve(of.data, items=(first,), expected=2, mask="files", augment=plain)
    family, again = Family(), Family()
    family.encode_picture = lambda modules, pixels: {
        "latent_mean": pixels[:, :1],
        "latent_std": pixels[:, :1],
    }
    again.encode_picture = None
    encode(family, modules(), {}, of, data, tmp_path / "cache")
    found = encode(again, modules(), {}, of, data, tmp_path / "cache")

    seen = {}
    for step in range(20):
        for sample in Order(of.data, 1, 2).step(step):
            batch = found.sample(sample)
            seen[sample.view, sample.flip] = batch["latent_mean"]
            assert torch.allclose(batch["loss_mask"], batch["latent_mean"] / 2 + 0.5, atol=1e-6)
    assert set(seen) == {(view, flip) for view in range(3) for flip in (False, True)}
    for view in range(3):
        assert torch.equal(seen[view, True], seen[view, False].flip(-1))
    assert len({tuple(one.flatten().tolist()) for one in seen.values()}) == 6


def test_what_is_held_out_is_encoded_as_it_is(data, tmp_path):
    of = program(data)
    of.data = attrs.evolve(of.data, items=of.data.items[:2], held_items=of.data.items[2:], augment=AUGMENT)
    family = Family()
    found = encode(family, modules(), {}, of, data, tmp_path / "cache")

    assert family.pictures == 2 * 3 + 1
    assert found.picture(of.data.held_items[0], PLAIN).keys() == {"latent_mean", "latent_std"}


def test_the_noise_of_a_sample_changes_with_the_step(data, tmp_path):
    found = encoded(data, tmp_path / "cache")
    noises = {}
    for step in range(3):
        for sample in Order(found.program.data, 0, 6).step(step):
            noises[step, sample.item, sample.key] = found.batch([sample])["noise"].flatten()[0].item()

    assert len(set(noises.values())) == 18
