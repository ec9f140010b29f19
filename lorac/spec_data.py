"""The words of a spec for what is learned from: pictures, or text and how it becomes sequences.

A part of `lorac.spec`, which is where others find them.
"""

from __future__ import annotations

from typing import Literal

from lorac import agree
from lorac.parts import Auto, part, setting
from lorac.rules import a_part, a_path, choice, flag, number, text, whole

GRID = 8
"""Picture sides are multiples of this: the latent grid of Stable Diffusion's autoencoder."""
LARGEST_SIDE = 2048

SIDE = whole(ge=64, le=LARGEST_SIDE, multiple_of=GRID, auto="open", unit="px")


@part("data.folders", agree.prior_is_as_much_as_the_rest)
class Folder:
    """Pictures in one folder below data.path that count otherwise than the rest."""

    path: str = setting(a_path(), "The folder, relative to data.path.", kw_only=False)
    repeats: int = setting(
        whole(ge=1, le=10_000), "Times each picture is seen for each time that it would be seen.", default=1
    )
    loss_weight: float = setting(
        number(gt=0, le=1000), "What the loss of its pictures is multiplied by.", default=1.0
    )
    prior: bool = setting(
        flag(),
        "Pictures of the class that the base knows, as many an epoch as all others, so that it does not forget it "
        "(prior preservation, Ruiz et al. 2023, arXiv:2208.12242); they never get the trigger.",
        default=False,
    )


@part(
    "data",
    agree.buckets_lie_around_resolution,
    agree.trigger_has_words,
    agree.folders_are_inside,
    agree.masks_are_of_one_kind,
    agree.tags_have_variants,
    agree.clips_are_whole,
)
class Images:
    """A folder of pictures with captions: metadata.csv, metadata.jsonl, or a text file beside each."""

    path: str = setting(
        a_path(), "The folder of pictures (kohya's `10_name` repeat folders too).", kw_only=False
    )
    metadata_path: str | None = setting(
        a_path(none="metadata.csv or metadata.jsonl in the folder, else a text file beside each picture"),
        "A .csv (image,prompt or file_name,text) or .jsonl file of captions that lies elsewhere.",
        default=None,
    )
    resolution: int = setting(
        whole(ge=64, le=LARGEST_SIDE, multiple_of=GRID, unit="px"),
        "Side of the square whose area every bucket keeps to.",
        default=512,
    )
    more_resolutions: tuple[int, ...] = setting(
        whole(ge=64, le=LARGEST_SIDE, multiple_of=GRID, unit="px", many=True),
        "Further resolutions: each picture is seen at each of them in an epoch, in buckets of its own.",
        default=(),
    )
    buckets: bool = setting(flag(), "Keep aspect ratios, in buckets; False crops squares.", default=True)
    bucket_step: int = setting(
        whole(ge=GRID, le=512, multiple_of=GRID, unit="px"), "Bucket sides are multiples of this.", default=64
    )
    min_bucket: int | Auto = setting(
        SIDE, "Shortest side of a bucket; Auto() is half of resolution.", default=Auto()
    )
    max_bucket: int | Auto = setting(
        SIDE, "Longest side of a bucket; Auto() is twice resolution.", default=Auto()
    )
    upscale: bool = setting(
        flag(), "Enlarge pictures smaller than their bucket instead of refusing.", default=False
    )
    trigger: str = setting(
        text(), "The words that call up the LoRA, recorded as its trigger words.", default=""
    )
    prepend_trigger: bool = setting(
        flag(), "Put the trigger before each caption that does not have it.", default=False
    )
    captions: Literal["required", "optional"] = setting(
        choice("required", "optional"), "Whether a picture without a caption is an error.", default="required"
    )
    caption_extension: str = setting(
        text(regex=r"\.[A-Za-z0-9_.-]{1,15}", regex_means='a suffix such as ".txt"'),
        "Suffix of the text file beside each picture.",
        default=".txt",
    )
    repeats: int = setting(whole(ge=1, le=10_000), "Times each picture is seen in an epoch.", default=1)
    frames: int = setting(
        whole(ge=1, le=64),
        "1: pictures. More: clips of so many frames, each a folder of them, or an animated GIF, PNG or WebP.",
        default=1,
    )
    fps: int = setting(whole(ge=1, le=60), "Frames a second of clips.", default=7)
    motion: int = setting(
        whole(ge=1, le=255), "How much moves in the clips (SVD's motion_bucket_id).", default=127
    )
    folders: tuple[Folder, ...] = setting(
        a_part(Folder, many=True),
        "Folders of it that count otherwise: seen more often, weighed, or pictures of the class.",
        default=(),
    )
    alpha_mask: bool = setting(
        flag(), "Learn from each picture as much as it is opaque: its alpha channel is a mask.", default=False
    )
    mask_path: str | None = setting(
        a_path(none="no mask files"),
        "A folder below data.path of masks, grey pictures named as the pictures are: white is learnt, black is not.",
        default=None,
    )
    unmasked_weight: float = setting(
        number(ge=0, lt=1), "How much counts what a mask leaves out.", default=0.0
    )
    flip: bool = setting(flag(), "Mirror half of the samples left to right.", default=False)
    random_crop: bool = setting(
        flag(), "Crop to the bucket at a random place instead of at the centre.", default=False
    )
    random_zoom: float = setting(
        number(ge=0, le=0.5),
        "Share of each side that a crop takes off besides, at most; it never enlarges a picture.",
        default=0.0,
    )
    color_jitter: float = setting(
        number(ge=0, le=1), "Share by which brightness, contrast and saturation vary, at most.", default=0.0
    )
    hue_jitter: float = setting(
        number(ge=0, le=0.5), "Share of the colour circle by which the hue varies, at most.", default=0.0
    )
    picture_variants: int = setting(
        whole(ge=2, le=1000),
        "Views of each picture that random crops and colours draw from: each is encoded once and kept on disk.",
        default=4,
    )
    caption_dropout: float = setting(
        number(ge=0, lt=1), "Share of samples that are trained with an empty caption.", default=0.0
    )
    shuffle_tags: bool = setting(
        flag(), "Put a caption's tags, between commas, in another order each time.", default=False
    )
    keep_tags: int = setting(
        whole(ge=0, le=1000), "First tags of a caption that are neither shuffled nor left out.", default=0
    )
    tag_dropout: float = setting(
        number(ge=0, lt=1), "Share of the other tags that is left out each time.", default=0.0
    )
    caption_variants: int = setting(
        whole(ge=2, le=1000),
        "Wordings of each caption that shuffling and leaving out draw from: each is encoded once and kept on disk.",
        default=8,
    )
    held_out: float = setting(
        number(ge=0, lt=1), "Share of the pictures that is measured on and never trained on.", default=0.0
    )
    skip_bad: bool = setting(
        flag(),
        "Leave out what cannot be used, and record it in the plan, instead of refusing.",
        default=False,
    )
    expected_images: int | Auto = setting(
        whole(ge=1, le=10_000_000, auto="open"),
        "Pictures that `lorac plan --unlocked` reckons with while the folder is elsewhere.",
        default=Auto(),
    )


_weight = number(gt=0, le=1000)
_weight_doc = "How often an epoch visits each sample: 1 once, 2 twice, 0.5 every second one."
_most = whole(ge=1, le=1_000_000_000, none="all of them", unit="rows")
_most_doc = "Read the file's first so many rows alone."


@part("data")
class Instructions:
    """Questions with answers, a row each: Alpaca's columns. Only the answers are trained."""

    path: str = setting(a_path(), "A .jsonl, .json, .csv or .parquet file.", kw_only=False)
    instruction: str = setting(text(), "The column of the instruction.", default="instruction")
    input: str = setting(
        text(), "The column of what the instruction is about; may be missing.", default="input"
    )
    output: str = setting(text(), "The column of the answer.", default="output")
    system: str = setting(text(), "The column of the system message; may be missing.", default="system")
    weight: float = setting(_weight, _weight_doc, default=1.0)
    max_samples: int | None = setting(_most, _most_doc, default=None)


@part("data")
class Conversations:
    """Conversations, a row each: OpenAI's messages or ShareGPT's turns. Only the assistant's turns are trained."""

    path: str = setting(a_path(), "A .jsonl, .json or .parquet file.", kw_only=False)
    messages: str | Auto = setting(
        text(auto="open"), "The column of the turns; Auto(): messages or conversations.", default=Auto()
    )
    style: Auto | Literal["messages", "sharegpt"] = setting(
        choice("messages", "sharegpt", auto="open"),
        "Turns as {role, content} or as {from, value}; Auto() asks the first row.",
        default=Auto(),
    )
    weight: float = setting(_weight, _weight_doc, default=1.0)
    max_samples: int | None = setting(_most, _most_doc, default=None)


@part("data")
class Completions:
    """Prompts with completions, a row each. Only the completions are trained."""

    path: str = setting(a_path(), "A .jsonl, .json, .csv or .parquet file.", kw_only=False)
    prompt: str = setting(text(), "The column of the prompt.", default="prompt")
    completion: str = setting(text(), "The column of the completion.", default="completion")
    weight: float = setting(_weight, _weight_doc, default=1.0)
    max_samples: int | None = setting(_most, _most_doc, default=None)


@part("data")
class Text:
    """Plain text, trained on as it is."""

    path: str = setting(a_path(), "A .txt, .md, .jsonl, .json, .csv or .parquet file.", kw_only=False)
    text: str = setting(text(), "The column of the text.", default="text")
    weight: float = setting(_weight, _weight_doc, default=1.0)
    max_samples: int | None = setting(_most, _most_doc, default=None)


TEXTS = (Instructions, Conversations, Completions, Text)


@part("sequences")
class Sequences:
    """How text becomes the sequences that a language model is trained on."""

    length: int = setting(
        whole(ge=16, le=1_048_576, unit="tokens"),
        "Tokens of a sequence at most; longer samples are cut.",
        default=2048,
    )
    packing: bool = setting(
        flag(), "Fill each sequence with several samples, which do not see each other.", default=True
    )
    template: str = setting(
        text(choices=("base", "chatml", "gemma", "glm4", "llama3", "mistral", "phi3")),
        "The chat template: the base's own, or one by name.",
        default="base",
    )
    held_out: float = setting(
        number(ge=0, lt=1), "Share of the samples that is measured on and never trained on.", default=0.0
    )
    expected: int | Auto = setting(
        whole(ge=1, le=100_000_000, auto="open"),
        "Sequences that `lorac plan --unlocked` reckons with while base or data are elsewhere.",
        default=Auto(),
    )
