"""CLIP's own byte-pair vocabulary (Radford et al. 2021), as open_clip ships it: for bases that come as one file."""

from __future__ import annotations

import gzip
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from transformers import CLIPTokenizer

from runtime import plan

SIZE = 49408
"""Tokens of every CLIP: 256 bytes, each also as a word's end, 48,894 merges, start and end (openai/CLIP)."""


END = "<|endoftext|>"
"""What ends a text, and pads it for OpenAI's towers."""

OPEN_CLIP_PAD = "!"
"""What pads a text for OpenCLIP's: token 0 (open_clip's `tokenize`)."""


@cache
def tokenizer(size: int = SIZE, pad: str = END) -> CLIPTokenizer:
    """CLIP's tokenizer, at most 77 tokens a text.

    A smaller `size` keeps only the first merges: for the random models of the tests.
    """
    spec = find_spec("open_clip")
    assert spec is not None and spec.origin is not None, "open_clip_torch is one of lorac's dependencies"
    file = Path(spec.origin).with_name("bpe_simple_vocab_16e6.txt.gz")
    lines = gzip.decompress(file.read_bytes()).decode("utf-8").split("\n")
    merges = [tuple(line.split()) for line in lines[1 : size - 2 * 256 - 2 + 1]]
    letters = list(_byte_letters())
    words = letters + [letter + "</w>" for letter in letters] + ["".join(merge) for merge in merges]
    words += ["<|startoftext|>", END]
    made: type = CLIPTokenizer  # its annotations lag behind the pairs it takes
    return made(
        vocab={word: number for number, word in enumerate(words)},
        merges=merges,
        unk_token=END,
        bos_token="<|startoftext|>",
        eos_token=END,
        pad_token=pad,
        model_max_length=77,
    )


def of_base(path: Path, base: plan.Base, tower: str, pad: str = END) -> CLIPTokenizer:
    """A text tower's tokenizer: of a diffusers folder its own, of a single file, which holds none, `tokenizer`'s."""
    if base.layout == "diffusers":
        return CLIPTokenizer.from_pretrained(path, subfolder=folder(tower), local_files_only=True)
    return tokenizer(base.architecture[tower]["vocab_size"], pad)


def folder(tower: str) -> str:
    """Where a diffusers folder has the tower's vocabulary: "text_encoder_2" -> "tokenizer_2"."""
    return tower.replace("text_encoder", "tokenizer")


def _byte_letters() -> list[str]:
    """A printable letter for each byte, in GPT-2's order: printable Latin-1 first, the others shifted past 255."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + place) for place in range(len(others))]
