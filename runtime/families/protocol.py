"""What a family says about itself. A family is a module with these functions; nothing else knows its name.

Words: a *component* is one network of the base ("unet", "text_encoder", "vae"); an *architecture* is plain JSON data,
component -> config, enough to build every component without weights; a *batch* is a dict of tensors whose first
dimension is the micro-batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import attrs
from PIL.Image import Image
from torch import Generator, Tensor, dtype, nn

from runtime import plan
from runtime.families.parts import Part

Shapes = Mapping[str, tuple[int, ...]]
Modules = dict[str, Any]
"""Component -> nn.Module; Any, since torch types every attribute of a module as `Tensor | Module`."""
Batch = dict[str, Tensor]
Architecture = dict[str, Any]


@attrs.frozen
class Rows:
    """A weight that is rows of a larger tensor in a single file: from `first` to before `last`, or to its end."""

    tensor: str
    first: int
    last: int | None


Original = str | Rows
"""What a weight is in a single file: a tensor's name, or rows of one."""


@attrs.frozen(kw_only=True)
class Wish:
    """What to sample: one picture of `width` × `height` pixels for each seed."""

    prompt: str
    negative_prompt: str
    seeds: Sequence[int]
    steps: int
    guidance: float
    width: int
    height: int
    start: Image | None = None
    """What a clip begins with, of that size."""
    clip: plan.Clip | None = None
    """How long a clip is, how fast, and how much moves in it."""


class Family(Protocol):
    """One architecture of pictures: how it is recognised, built, loaded, encoded, trained, sampled and named.

    A family of language models has the same, but for what only pictures need (`runtime.families.causal_lm`).
    """

    NAME: str
    TITLE: str
    KIND: Literal["images", "clips"]
    """What data it takes."""
    EXPORTS: tuple[str, ...]
    """How its LoRAs are written, as `runtime.export` names it."""
    COMPONENTS: tuple[str, ...]
    """Every component, in the order in which it is loaded, the backbone first."""
    BACKBONE: str
    """The component that is trained."""
    TEXT_ENCODERS: tuple[str, ...]
    TRAINED_TEXT_ENCODERS: tuple[str, ...]
    """Those of them that can be adapted too; none where one is too large to run in every step."""
    WORD_FILES: Mapping[str, str]
    """Text encoders in which a word can have vectors of its own -> what a word's file calls those; empty where none
    can."""
    CLIP_SKIP: str
    """The text encoder that may be read before its last layer; empty where the family says which layer it is."""
    STREAMED: Mapping[str, plan.Dtype]
    """Text encoders too large for a card beside the denoiser, with the dtype that they are held in: their blocks come
    to the card one after the other. The others are there whole, in float32."""
    VAE: str
    BESIDE: tuple[str, ...]
    """Folders beside a single file that belong to the base: what no such file holds."""
    PARTS: Mapping[str, Part]
    """What comes in files of its own beside the backbone's, too, in the order in which it is looked for."""
    GRID: int
    """Picture sides are multiples of this many pixels."""
    CAPTION_TOKENS: int
    """Tokens of a caption that the text encoder takes, begin and end included."""
    OBJECTIVE: Mapping[str, Any]
    """What an expert sets of `plan.Objective`'s `timesteps` and `timestep_shift`; empty where there is no choice."""
    SAMPLING: Mapping[str, Any]
    """What a picture is usually drawn with: `steps` and `guidance`."""
    CFG: bool
    """Whether guidance draws with and without the prompt at once (Ho and Salimans 2022); not where it is an input."""

    def recognise(self, shapes: Shapes) -> bool:
        """Whether tensors of these names and shapes are this family's, in its original single-file layout.

        Raises InputError for a relative that it knows by sight and does not train; `where` is the caller's to fill."""

    def recognise_folder(self, index: dict[str, Any], configs: dict[str, Any]) -> bool:
        """Whether a diffusers folder is this family's, from its model_index.json and its components' configs. Raises
        as `recognise` does."""

    def recognise_config(self, config: dict[str, Any]) -> bool:
        """Whether a Transformers folder (or what a GGUF file amounts to) is this family's, from its config."""

    def published(self, name: str = "") -> Architecture:
        """The architecture as published, to plan without a base at hand; `name` where the family has several."""

    def architecture(self, shapes: Shapes) -> Architecture:
        """The architecture of a single file, from its tensors' names and shapes, those of parts in files of their own
        among them as a file with everything names them; without those of PARTS that it lacks."""

    def prediction_type(self, architecture: Architecture) -> plan.PredictionType:
        """What the base predicts, as far as its files say."""

    def build(self, architecture: Architecture, component: str) -> nn.Module:
        """One component without weights, in the default dtype on the current device (meta, for a trace)."""

    def load(self, path: Path, base: plan.Base, component: str, dtype: dtype) -> nn.Module:
        """One component with its weights from a diffusers folder or a single file, which may be its own. Raises
        InputError."""

    def original_names(
        self, names: Sequence[str], architecture: Architecture
    ) -> Mapping[str, Mapping[str, Original]]:
        """Component -> a weight's name there -> what it is in a single file, of all weights that files hold alike:
        for the backbone and the text encoders."""

    def load_tokenizers(self, path: Path, base: plan.Base) -> dict[str, Any]:
        """The tokenizers by text encoder; `path` is the base's, or of the folder of a vocabulary beside it."""

    ONE_GRAPH: frozenset[str]
    """Of language models, the types whose blocks torch compiles whole (`runtime.compiled`)."""

    PRESETS: dict[str, Any]
    """The words for sets of adapted modules, the usual one first."""

    def targets(self, architecture: Architecture, preset: str, text_encoder: bool) -> dict[str, str]:
        """Component -> regex for one of `PRESETS` or "re:…"."""

    def config_of(self, architecture: Architecture) -> Any:
        """transformers' config of a language model."""

    def modules_to_save(
        self, architecture: Architecture, wanted: Sequence[str]
    ) -> dict[str, tuple[str, ...]]:
        """Component -> paths of the modules that are trained whole, for "embeddings" and "lm_head": of language models
        only. Raises SpecError for what the architecture ties."""

    def blocks(self, modules: Modules) -> dict[str, nn.Module]:
        """The blocks that are recomputed, offloaded and quantised, by name, in the order of the forward pass.

        Of the components that `modules` has.
        """

    def tokenize(self, tokenizers: dict[str, Any], captions: Sequence[str]) -> Batch:
        """Token ids as the text encoders take them."""

    def caption_tokens(self, tokenizers: dict[str, Any], captions: Sequence[str]) -> list[int]:
        """How many tokens each caption really has, begin and end included."""

    def encode_text(self, modules: Modules, tokens: Batch) -> Batch:
        """What the denoiser takes of a caption, from token ids."""

    def encode_picture(self, modules: Modules, pixels: Tensor) -> Batch:
        """What is cached of a picture: pixels (N, 3, H, W) in [-1, 1] -> latents' distribution.

        Of a clip: pixels (N, frames, 3, H, W).
        """

    def conditions(self, item: plan.Item, corner: tuple[int, int]) -> Batch:
        """What else the denoiser is told of a picture, without a batch dimension: its own size, the crop's `corner`
        (`runtime.data.pixels.corner`) …"""

    def decode(self, modules: Modules, latents: Tensor) -> Tensor:
        """Latents as `encode_picture` has their means -> pixels (N, 3, H, W) in about [-1, 1]."""

    def example(self, architecture: Architecture, size: int, shape: plan.Shape, tokens: bool) -> Batch:
        """A batch of the right shapes and dtypes, values irrelevant; `tokens` if the text encoder is trained."""

    def draw(self, item: Batch, generator: Generator, objective: plan.Objective) -> Batch:
        """All randomness of one sample of one step (noise, timestep …); `item` has no batch dimension.

        The only scalar (0-dimensional) tensor is its time: the more of it, the more noise.
        """

    def loss(self, modules: Modules, batch: Batch, base: plan.Base, objective: plan.Objective) -> Tensor:
        """The loss of each sample, shape (N,), float32."""

    def sample(
        self, modules: Modules, tokenizers: dict[str, Any], base: plan.Base, wish: Wish
    ) -> list[Image]:
        """Pictures for a prompt, one for each seed."""

    def export_name(self, component: str, module: str) -> str:
        """A module's LoRA key prefix as WebUI, ComfyUI and kohya's trainer name it."""

    def metadata(self, base: plan.Base) -> dict[str, str]:
        """`ss_*` and `modelspec.*` values that name the family to the consumers."""

    def tiny(self, folder: Path) -> Path:
        """Write a random base of some kB there, that trains end to end on a CPU."""
