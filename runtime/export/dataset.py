"""What a LoRA file says of its training pictures: folders, buckets and tags, in the form that kohya's
trainer gave them and WebUI shows them.

- No path of the user's machine: a folder is named by its last part below the data folder.
- No caption: sentences are counted by word, as WebUI would show them anyway; tags are cut and their
  number is limited, because ComfyUI reads no header over 1 MiB.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Any

from runtime.plan import Item

SENTENCE = 16
"""Mean letters of a "tag" from which on A1111 splits it into words (ui_edit_user_metadata.py, 1.10.1)."""

SHORTEST_WORD = 3
LONGEST_TAG = 64
MOST_TAGS = 500
MOST_FOLDERS = 200

WORD = re.compile(r"[-_\w']+")


def folders(items: Iterable[Item], name: str) -> dict[str, dict[str, int]]:
    """`ss_dataset_dirs`: {folder: {n_repeats, img_count}}, a folder named as kohya's trainer wants it,
    `10_cat`."""
    found: dict[str, dict[str, int]] = {}
    for item in items:
        folder = found.setdefault(_folder(item, name), {"n_repeats": item.repeats, "img_count": 0})
        folder["img_count"] += 1
    return _most(found, lambda folder: folder["img_count"], MOST_FOLDERS)


def buckets(items: Iterable[Item]) -> dict[str, Any]:
    """`ss_bucket_info`: pictures with repeats in each bucket [width, height], the mean error of the
    aspect ratio."""
    counts: Counter[tuple[int, int]] = Counter()
    errors = []
    for item in items:
        counts[item.bucket] += item.repeats
        errors.append(abs(item.width / item.height - item.bucket[0] / item.bucket[1]))
    table = {
        str(i): {"resolution": list(size), "count": counts[size]} for i, size in enumerate(sorted(counts))
    }
    return {"buckets": table, "mean_img_ar_error": sum(errors) / len(errors) if errors else 0}


def tags(items: Iterable[Item], name: str) -> dict[str, dict[str, int]]:
    """`ss_tag_frequency`: {folder: {tag: captions with it}}, the most frequent first."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for item in items:
        found[_folder(item, name)].update(_tags(item.caption))
    lengths = [len(tag) for counter in found.values() for tag in counter]
    if lengths and sum(lengths) / len(lengths) >= SENTENCE:
        found = {folder: _words(counter) for folder, counter in found.items()}
    short: Counter[tuple[str, str]] = Counter()
    for folder, counter in found.items():
        for tag, count in counter.items():
            short[folder, tag[:LONGEST_TAG]] += count
    table: dict[str, dict[str, int]] = {}
    for folder, tag in sorted(short, key=lambda key: (-short[key], key))[:MOST_TAGS]:
        table.setdefault(folder, {})[tag] = short[folder, tag]
    return table


def _folder(item: Item, name: str) -> str:
    last = PurePosixPath(item.path).parent.name or name
    return last if last.startswith(f"{item.repeats}_") else f"{item.repeats}_{last}"


def _tags(caption: str) -> list[str]:
    shown = "".join(c if c.isprintable() else " " for c in caption).lower()
    return [tag for tag in (part.strip() for part in shown.split(",")) if tag]


def _words(counter: Counter[str]) -> Counter[str]:
    words: Counter[str] = Counter()
    for sentence, count in counter.items():
        for word in WORD.findall(sentence):
            if len(word) >= SHORTEST_WORD:
                words[word] += count
    return words


def _most(table: dict[str, Any], size: Any, limit: int) -> dict[str, Any]:
    kept = sorted(table, key=lambda key: (-size(table[key]), key))[:limit]
    return {key: table[key] for key in sorted(kept)}
