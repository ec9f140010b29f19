"""CLIP's own tokenizer as a folder of the files that SD 1.x's has."""

from __future__ import annotations

import json
from pathlib import Path

from transformers import CLIPTokenizer

from runtime.families import clip_vocabulary

START, END = "<|startoftext|>", "<|endoftext|>"


def write_tokenizer(folder: Path) -> None:
    """Write vocab.json, merges.txt and the configs: the 49,408 tokens of OpenAI's CLIP, padded as SD 1.x pads."""
    model = json.loads(clip_vocabulary.tokenizer().backend_tokenizer.to_str())["model"]
    folder.mkdir(parents=True, exist_ok=True)
    in_order = dict(sorted(model["vocab"].items(), key=lambda item: item[1]))
    (folder / "vocab.json").write_text(json.dumps(in_order, ensure_ascii=False), encoding="utf-8")
    merges = [" ".join(pair) for pair in model["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "do_lower_case": True, **special}
    for name, values in (("tokenizer_config.json", config), ("special_tokens_map.json", special)):
        (folder / name).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def load_tokenizer(folder: Path) -> CLIPTokenizer:
    """The tokenizer of a folder that `write_tokenizer` made."""
    return CLIPTokenizer.from_pretrained(folder)
