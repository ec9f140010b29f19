"""What is said together of words that have vectors of their own: rules as in `lorac.agree`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from lorac.agree import Disagreement
from lorac.parts import Auto, reads
from runtime import names

if TYPE_CHECKING:
    from lorac.spec import Experiment, LoHa, LoKr, LoRA


@reads("words")
def words_are_named_once(adapter: LoRA | LoHa | LoKr) -> Iterator[Disagreement]:
    """Each word has a file of its own, called by it."""
    seen: set[str] = set()
    for one in adapter.words:
        name = names.of_word(one.word).lower()
        if fault := names.wrong(name):
            yield one, "word", f"names a file, which {fault}, got {one.word!r}", "choose another word"
        elif name in seen:
            what = f"is a word that has a file already, {name}.safetensors, got {one.word!r}"
            yield one, "word", what, "name each word once"
        seen.add(name)


@reads("adapter", "train")
def words_have_their_rate(experiment: Experiment) -> Iterator[Disagreement]:
    """Prodigy finds one rate for all that is trained, and a word with it."""
    from lorac.spec import Prodigy

    train = experiment.train
    for one in getattr(experiment.adapter, "words", ()):
        is_other = not isinstance(one.learning_rate, Auto) and one.learning_rate != train.learning_rate
        if is_other and isinstance(train.optimizer, Prodigy):
            what = "is another than train.learning_rate, and Prodigy finds one rate for all weights"
            yield one, "learning_rate", what, "leave it out"
