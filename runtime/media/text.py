"""Text: conversations and plain text as sequences of tokens, the loss on what is held out, answers."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import attrs
import torch

from runtime import answers, log, plan, processes
from runtime.families.protocol import Batch, Modules
from runtime.media import Ready
from runtime.preflight import Where
from runtime.safeio import atomic, strict_json
from runtime.text import corpus, packing
from runtime.text import sequences as ordering
from runtime.text.corpus import Corpus, Rule
from runtime.text.cross_entropy import targets_of
from runtime.text.render import Tokens
from runtime.text.sequences import Order


@attrs.frozen(kw_only=True)
class Texts:
    """The sequences of a plan, in their order. `pad` is the token that fills what is left of a sequence."""

    data: plan.Texts
    corpora: tuple[Corpus, ...]
    order: Order
    pad: int
    device: torch.device

    def step(self, number: int) -> Sequence[ordering.Sequence]:
        return self.order.step(number)

    def cut(self, samples: Sequence[ordering.Sequence], micro_batch: int) -> list[tuple[Any, ...]]:
        return list(self.order.cut(samples, micro_batch))

    def batch(self, samples: Sequence[ordering.Sequence]) -> Batch:
        rows = [[self.tokens(number) for number in row.samples] for row in samples]
        if self.data.packing:
            made = packing.packed(rows, self.data.length, self.pad)
        else:
            made = packing.padded([row[0] for row in rows], self.pad, self.data.length)
        return batch_of(made, len(rows), self.device)

    def weigh(self, samples: Sequence[ordering.Sequence]) -> int:
        return sum(trained(self.tokens(number)) for row in samples for number in row.samples)

    def names(self, samples: Sequence[ordering.Sequence]) -> list[str]:
        return [self.name(number) for row in samples for number in row.samples]

    def held_out(self, micro_batch: int) -> Iterable[tuple[Batch, list[tuple[int, int]]]]:
        sides = [made.held_out for made in self.corpora]
        tokens = [side.sample(number) for side in sides for number in range(len(side))]
        tokens.sort(key=lambda one: len(one.ids))
        for at in range(0, len(tokens), micro_batch):
            part = tokens[at : at + micro_batch]
            batch = batch_of(packing.padded(part, self.pad, self.data.length), len(part), self.device)
            yield batch, [(at + place, trained(one)) for place, one in enumerate(part)]

    def tokens(self, number: int) -> Tokens:
        """A sample by its number over all files."""
        at, inside = self._place(number)
        return self.corpora[at].train.sample(inside)

    def name(self, number: int) -> str:
        """`FILE row N`."""
        at, inside = self._place(number)
        return f"{self.data.files[at].path} row {self.corpora[at].train.rows[inside]}"

    def _place(self, number: int) -> tuple[int, int]:
        ends = list(itertools.accumulate(self.order.sizes))
        at = next(at for at, end in enumerate(ends) if number < end)
        return at, number - (ends[at] - self.order.sizes[at])


def trained(tokens: Tokens) -> int:
    """Tokens that the loss is taken over: a sample's first one has nothing to be predicted from."""
    return sum(tokens.trained[1:])


def batch_of(made: packing.Batch, rows: int, device: torch.device) -> Batch:
    """What the family's loss takes: the loss of a sequence is the sum over the trained tokens in it."""
    numbers = torch.arange(rows).unsqueeze(-1).expand(made.labels.shape)
    targets = targets_of(made.labels, numbers)
    mask = {} if made.attention_mask is None else {"attention_mask": made.attention_mask}
    batch = {
        "input_ids": made.input_ids,
        "position_ids": made.position_ids,
        "places": targets.places,
        "tokens": targets.tokens,
        "rows": targets.samples,
        **mask,
    }
    return {name: tensor.to(device) for name, tensor in batch.items()}


def prepare(
    of: Any,
    modules: Modules,
    tokenizers: dict[str, Any],
    program: plan.Program,
    where: Where,
    device: torch.device,
) -> Texts:
    """The run's texts, once the loaded base has shown on one of them that its loss is right."""
    texts = read(of, tokenizers, program, where, device)
    model = modules[of.BACKBONE]  # it is not on the device where its blocks are yet to be streamed
    of.check_loss(modules, batch_of(probe(texts.corpora[0]), 1, model.device), program, str(where.base))
    return texts


def read(
    of: Any, tokenizers: dict[str, Any], program: plan.Program, where: Where, device: torch.device
) -> Texts:
    """The plan's texts in the run's order, as tokens from the cache or made now. No model is needed."""
    data = program.data
    assert isinstance(data, plan.Texts)
    tokenizer = tokenizers[of.BACKBONE]
    rule = Rule(template=data.template, length=data.length, held_out=data.held_out)
    corpora = tuple(
        corpus.of_file(
            where.data / file.path,
            file.sha256,
            file.shape,
            file.columns,
            rule,
            tokenizer,
            program.base.digest,
            where.cache,
            file.max_samples,
        )
        for file in data.files
    )
    order = ordering.order_of(
        corpora,
        [file.weight for file in data.files],
        data.length,
        data.packing,
        program.train.seed,
        program.train.effective_batch,
    )
    return Texts(data=data, corpora=corpora, order=order, pad=pad_of(tokenizer), device=device)


PROBED = 16
"""Tokens that a loaded base is tried with."""


def probe(of: Corpus) -> packing.Batch:
    """The beginning of the first sample, all of it trained."""
    ids = of.train.sample(0).ids[:PROBED]
    return packing.packed([[Tokens(ids=ids, trained=(True,) * len(ids))]], len(ids), pad=0)


def pad_of(tokenizer: Any) -> int:
    """The token that fills up sequences: it is masked and never trained, so any will do."""
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    return 0


def show(ready: Ready, step: int) -> None:
    """Answers at a checkpoint."""
    _write(ready, f"{step:06}")


def finish(ready: Ready) -> list[Any]:
    """The last answers, with the adapter and without. They are no previews of a picture kind."""
    _write(ready, "final")
    return []


def _write(ready: Ready, name: str) -> None:
    wanted = ready.plan.outputs.samples
    assert isinstance(wanted, plan.Answers)
    if not wanted.prompts:
        return
    try:
        found = answers.compare(ready.trainee, ready.tokenizers, wanted)
    except Exception as error:  # a sample is never worth a run: the checkpoint is already safe
        log.warn(f"no answers ({name}): {type(error).__name__}: {error}")
        return
    if not processes.first():
        return
    path = ready.where.output / "samples" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic.write_text(path, strict_json.canonical([attrs.asdict(one) for one in found]))
    for one in found:
        for said in (f"> {one.prompt}", f"base: {one.base}", f"LoRA: {one.adapted}"):
            log.info(said)
