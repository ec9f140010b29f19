"""What never changes in a run, encoded once: latents' distributions of pictures, embeddings of captions.

- Keyed by content: the picture's sha256, its bucket and the view of it, or the caption, with all that the encoder's
  answer depends on (base, component, dtype, device, library versions). Two runs and two folders share
  entries; an edited picture or another base gets new ones.
- One picture at a time: in a larger batch the same picture gets other last bits (measured: 9e-7 on a CPU),
  and the entry would depend on what was missing beside it.
- Where the text encoder is trained, captions are kept as tokens.
- A mask is kept at the latents' size, cropped as the picture is, and turned with it where that is flipped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import PIL
import torch
from torch import nn

from runtime import log, plan
from runtime.data import captions, draws, pixels, views
from runtime.data.entries import Entries
from runtime.data.order import Sample
from runtime.data.views import PLAIN, View
from runtime.errors import DivergedError, MachineError, Problem
from runtime.families.protocol import Batch, Family, Modules
from runtime.safeio import strict_json

VERSION = 2
"""Part of every key: raise it when the same key would mean other tensors."""

Progress = Callable[[str, int, int], None]
"""Called with what is being encoded ("pictures", "captions"), how many are done, how many there are to do."""


@attrs.frozen(kw_only=True)
class Encoded:
    """A plan's samples, ready to be stacked. `text` maps a caption to its tensors."""

    family: Family
    program: plan.Program
    entries: Entries
    encoder: str
    text: Callable[[str], Batch]

    def batch(self, samples: Iterable[Sample], device: torch.device | str = "cpu") -> Batch:
        """The stacked tensors of samples of one bucket: what is cached of each, and what each one draws."""
        return stacked([self.sample(sample) for sample in samples], device)

    def sample(self, sample: Sample) -> Batch:
        """One sample of one step, without a batch dimension, on the CPU."""
        data = plan.pictures(self.program.data)
        item = data.items[sample.item]
        caption = "" if sample.drop_caption else captions.wording(item.caption, data, sample.variant)
        return self.of_item(item, views.view(data, item, sample.view, sample.flip), caption, sample.key)

    def of_item(self, item: plan.Item, view: View, caption: str, key: int) -> Batch:
        """A view of a picture with a caption and what is drawn from `key`, without a batch dimension, on the CPU."""
        picture = self.picture(item, view)
        return {
            **picture,
            **self.weights(item, view, picture),
            **self.text(caption),
            **self.family.conditions(item, pixels.corner(item, view)),
            **self.drawn(item, view, key),
        }

    def weights(self, item: plan.Item, view: View, picture: Batch) -> Batch:
        """How much a picture counts, and each place in it (1, h, w): as `runtime.families.objective` takes them."""
        data = plan.pictures(self.program.data)
        found = {"loss_weight": torch.tensor(item.loss_weight)} if plan.are_weighted(data) else {}
        if data.mask != "none":
            mask = stored(self.entries, mask_key(item, view, data.mask, _size(picture)))["mask"]
            least = data.unmasked_weight
            found["loss_mask"] = least + (1 - least) * (mask.flip(-1) if view.flip else mask)
        return found

    def picture(self, item: plan.Item, view: View) -> Batch:
        """What is cached of a view of a picture."""
        return stored(self.entries, picture_key(self.encoder, item, view))

    def drawn(self, item: plan.Item, view: View, key: int) -> Batch:
        """Noise, timestep and what else the family draws for a view of a picture from `key`."""
        objective = self.program.train.objective
        return self.family.draw(self.picture(item, view), draws.generator(key), objective)


def encode(
    of: Family,
    modules: Modules,
    tokenizers: dict[str, Any],
    program: plan.Program,
    data: Path,
    cache: Path,
    progress: Progress | None = None,
) -> Encoded:
    """Encode what `cache` does not hold yet. The modules come without an adapter, on the device to encode on.

    Raises InputError for a picture, DivergedError for latents that are not finite, MachineError for the disk.
    """
    entries = Entries(cache / "encoded")
    vae = encoder_digest(program, of.NAME, {of.VAE: modules[of.VAE]})
    _encode_pictures(of, modules, program, data, entries, vae, progress)
    _encode_masks(program, data, entries, vae)
    texts = captions.wordings(plan.pictures(program.data))
    if any(name in plan.trained(program.adapter) for name in of.TEXT_ENCODERS):
        tokens = {caption: _only(of.tokenize(tokenizers, [caption])) for caption in texts}
        text = tokens.__getitem__
    elif not of.TEXT_ENCODERS:

        def text(caption: str) -> Batch:
            return {}

    else:
        encoders = {name: modules[name] for name in of.TEXT_ENCODERS}
        towers = encoder_digest(program, of.NAME, encoders, program.base.clip_skip)
        _encode_captions(of, modules, tokenizers, entries, towers, texts, progress)

        def text(caption: str) -> Batch:
            return stored(entries, caption_key(towers, caption))

    if entries.damaged:
        log.warn(f"{entries.damaged} damaged entries of {entries.folder} were made again")
        entries.damaged = 0
    return Encoded(family=of, program=program, entries=entries, encoder=vae, text=text)


def stacked(items: Sequence[Batch], device: torch.device | str) -> Batch:
    """Samples of one bucket as a batch."""
    return {name: torch.stack([item[name] for item in items]).to(device) for name in items[0]}


def stored(entries: Entries, key: str) -> Batch:
    """An entry that was there when the run began. Raises MachineError if it is gone or damaged by now."""
    found = entries.read(key)
    if found is None:
        what = f"entry {key} was removed or damaged while the run used it"
        raise MachineError(Problem(str(entries.folder), what, "run the same command again: it is made anew"))
    return found


# ------------------------------------------------------------------------------------------------------- keys


def encoder_digest(
    program: plan.Program, family: str, modules: Mapping[str, nn.Module], clip_skip: int = 1
) -> str:
    """All that an encoder's answer depends on, its input apart. `clip_skip`: which layer it is read at."""
    weight = next(parameter for module in modules.values() for parameter in module.parameters())
    device = weight.device
    is_cuda = device.type == "cuda"
    return _sha256(
        {
            "version": VERSION,
            "family": family,
            "base": program.base.digest,
            "components": sorted(modules),
            "dtype": str(weight.dtype),
            "device": torch.cuda.get_device_name(device)
            if is_cuda
            else torch.backends.cpu.get_cpu_capability(),
            "versions": {**program.versions, "pillow": PIL.__version__},
            **({"clip_skip": clip_skip} if clip_skip > 1 else {}),
        }
    )


def picture_key(encoder: str, item: plan.Item, view: View) -> str:
    """The key of the latents of one view of a picture."""
    found = {"encoder": encoder, "picture": item.sha256, "bucket": item.bucket, "flip": view.flip}
    return _sha256(found | _unless_plain("crop", view.crop) | _unless_plain("colours", view.colours))


def caption_key(encoder: str, caption: str) -> str:
    """The key of one caption's embedding."""
    return _sha256({"encoder": encoder, "caption": caption})


def mask_key(item: plan.Item, view: View, mask: plan.Mask, size: tuple[int, int]) -> str:
    """The key of the mask of one view of a picture at the size of its latents (height, width)."""
    file = item.sha256 if mask == "alpha" else item.mask_sha256
    cropped = _unless_plain("crop", view.crop) if file else {}
    found = {"version": VERSION, "mask": mask, "file": file, "bucket": item.bucket, "size": size}
    return _sha256(found | cropped | {"pillow": PIL.__version__})


def _unless_plain(name: str, value: tuple[float, ...]) -> dict[str, tuple[float, ...]]:
    """A part of a key that is left out where the picture is seen as it is."""
    return {name: value} if value != getattr(PLAIN, name) else {}


def _sha256(value: Any) -> str:
    return strict_json.sha256(value)


# --------------------------------------------------------------------------------------------------- encoding


def _encode_pictures(
    of: Family,
    modules: Modules,
    program: plan.Program,
    data: Path,
    entries: Entries,
    encoder: str,
    progress: Progress | None,
) -> None:
    pictures = plan.pictures(program.data)
    wanted = [
        (item, view)
        for item, view in views.every_view(pictures)
        if entries.read(picture_key(encoder, item, view)) is None
    ]
    weight = next(modules[of.VAE].parameters())
    problems = []
    for done, (item, view) in enumerate(wanted, start=1):
        picture = pixels.read(data, item, view)[None].to(weight.device, weight.dtype)
        with torch.no_grad():
            latents = _only(of.encode_picture(modules, picture))
        if all(bool(tensor.isfinite().all()) for tensor in latents.values()):
            entries.write(picture_key(encoder, item, view), latents)
        else:
            what = f"its latents are not finite in {str(weight.dtype).removeprefix('torch.')}"
            problems.append(Problem(str(data / item.path), what, "encode in fp32, or replace the picture"))
        if progress:
            progress("pictures", done, len(wanted))
    if problems:
        raise DivergedError(problems)


def _encode_masks(program: plan.Program, folder: Path, entries: Entries, encoder: str) -> None:
    data = plan.pictures(program.data)
    for item, view in views.every_view(data) if data.mask != "none" else ():
        size = _size(stored(entries, picture_key(encoder, item, view)))
        key = mask_key(item, view, data.mask, size)
        if entries.read(key) is None:
            entries.write(key, {"mask": pixels.read_mask(folder, item, data.mask, size, view)})


def _encode_captions(
    of: Family,
    modules: Modules,
    tokenizers: dict[str, Any],
    entries: Entries,
    encoder: str,
    texts: Iterable[str],
    progress: Progress | None,
) -> None:
    wanted = [caption for caption in texts if entries.read(caption_key(encoder, caption)) is None]
    device = next(modules[of.TEXT_ENCODERS[0]].parameters()).device
    for done, caption in enumerate(wanted, start=1):
        tokens = {name: ids.to(device) for name, ids in of.tokenize(tokenizers, [caption]).items()}
        with torch.no_grad():
            entries.write(caption_key(encoder, caption), _only(of.encode_text(modules, tokens)))
        if progress:
            progress("captions", done, len(wanted))


def _size(picture: Batch) -> tuple[int, int]:
    """Height and width of a picture's latents."""
    height, width = picture["latent_mean"].shape[-2:]
    return height, width


def _only(batch: Batch) -> Batch:
    """A batch of one without its batch dimension."""
    return {name: tensor[0] for name, tensor in batch.items()}
