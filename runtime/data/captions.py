"""The wordings of a caption: its tags in another order, some left out. A pure function of the caption and a number.

- A caption has a bounded number of wordings, so what is encoded of them, and the disk it takes, is known beforehand.
  Which one a sample sees is drawn from its key, as everything is.
- They do not depend on the seed or on the picture's place: two runs, and two sizes of one picture, share them.
"""

from __future__ import annotations

import hashlib

import numpy as np

from runtime import plan
from runtime.data import draws

SEPARATOR = ","
JOINED = ", "


def wording(caption: str, data: plan.Images, number: int) -> str:
    """Wording `number` of a caption, from 0: the caption as it is where the data have only one.

    The first `keep_tags` tags stay where they are, in each wording.
    """
    if data.caption_variants == 1:
        return caption
    tags = [tag.strip() for tag in caption.split(SEPARATOR)]
    kept, free = tags[: data.keep_tags], np.array(tags[data.keep_tags :], dtype=object)
    places = np.arange(len(free), dtype=np.uint64)
    of = int.from_bytes(hashlib.sha256(caption.encode()).digest()[:8], "little")
    if data.shuffle_tags:
        luck = draws.mix(draws.TAG_ORDER, of, number, places)
        order = np.lexsort((places, luck))
        free, places = free[order], places[order]
    if data.tag_dropout:
        # By the tag's own place, so that shuffling decides nothing about what is left out.
        keys = draws.mix(draws.TAG_DROP, of, number, places)
        free = free[draws.uniform(keys, draws.TAG_DROP) >= data.tag_dropout]
    return JOINED.join([*kept, *free])


def wordings(data: plan.Images) -> list[str]:
    """Every text that a sample of these data may see, each once."""
    captions = dict.fromkeys(item.caption for item in data.items)
    found = dict.fromkeys(
        wording(caption, data, number) for caption in captions for number in range(data.caption_variants)
    )
    found |= dict.fromkeys(item.caption for item in data.held_items)
    if data.caption_dropout:
        found[""] = None
    return list(found)
