"""What the fields of a spec must say together: each rule across fields is one function here.

Each yields (the part to blame, its field, what is wrong, a hint) and is called only where the fields it reads
are sound by themselves, so none looks at types again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from lorac.parts import Auto, default_of, reads, rule_of
from runtime import names
from runtime.plan_data import is_inner

if TYPE_CHECKING:
    from lorac.spec import (
        Answers,
        Experiment,
        Fit,
        Folder,
        Images,
        LoHa,
        LoKr,
        LoRA,
        Outputs,
        Samples,
    )

Disagreement = tuple[object, str, str, str]


@reads("resolution", "min_bucket", "max_bucket")
def buckets_lie_around_resolution(images: Images) -> Iterator[Disagreement]:
    """The shortest side of a bucket is at most the resolution, the longest at least."""
    low, high, side = images.min_bucket, images.max_bucket, images.resolution
    if isinstance(low, int) and low > side:
        yield images, "min_bucket", f"must be at most data.resolution {side}, got {low}", "lower min_bucket"
    if isinstance(high, int) and high < side:
        yield images, "max_bucket", f"must be at least data.resolution {side}, got {high}", "raise max_bucket"


@reads("trigger", "prepend_trigger")
def trigger_has_words(images: Images) -> Iterator[Disagreement]:
    """A trigger that is to be put before captions is not empty."""
    if images.prepend_trigger and not images.trigger.strip():
        yield images, "prepend_trigger", "is set, but data.trigger is empty", 'give the words: trigger="…"'


@reads("folders", "mask_path")
def folders_are_inside(images: Images) -> Iterator[Disagreement]:
    """A folder is named once, by a path below data.path."""
    named: list[tuple[object, str, str]] = [(folder, "path", folder.path) for folder in images.folders]
    if images.mask_path is not None:
        named.append((images, "mask_path", images.mask_path))
    seen: set[str] = set()
    for owner, field, path in named:
        if not is_inner(path):
            yield owner, field, f"must lie below data.path, without `..`, got {path!r}", "put it there"
        elif path in seen:
            yield owner, field, f"is named already: {path!r}", "name each folder once"
        seen.add(path)


@reads("prior", "repeats")
def prior_is_as_much_as_the_rest(folder: Folder) -> Iterator[Disagreement]:
    """How often prior pictures are seen follows from the others."""
    if folder.prior and folder.repeats != 1:
        what = "is given, and prior pictures are seen as often as all others together"
        yield folder, "repeats", what, "leave it out; loss_weight says how much they count"


@reads("alpha_mask", "mask_path", "unmasked_weight")
def masks_are_of_one_kind(images: Images) -> Iterator[Disagreement]:
    """Masks come from one place, and there are some where something is said of them."""
    if images.alpha_mask and images.mask_path is not None:
        yield images, "alpha_mask", "and data.mask_path are both given", "keep one of the two"
    if images.unmasked_weight and not images.alpha_mask and images.mask_path is None:
        yield images, "unmasked_weight", "is set, and there are no masks", "set alpha_mask or mask_path"


@reads("shuffle_tags", "keep_tags", "tag_dropout")
def tags_have_variants(images: Images) -> Iterator[Disagreement]:
    """Tags are kept where something would move them."""
    if images.keep_tags and not images.shuffle_tags and not images.tag_dropout:
        yield images, "keep_tags", "is set, and nothing moves tags", "set shuffle_tags or tag_dropout"


OF_STILL_PICTURES = (
    *("more_resolutions", "folders", "alpha_mask", "mask_path"),
    *("shuffle_tags", "tag_dropout", "held_out"),
    *("random_crop", "random_zoom", "color_jitter", "hue_jitter"),
)
"""Fields of `Images` that clips have not."""


@reads("frames", *OF_STILL_PICTURES)
def clips_are_whole(images: Images) -> Iterator[Disagreement]:
    """What is only for pictures that stand still is not set beside clips: it would be passed over."""
    for field in OF_STILL_PICTURES if images.frames > 1 else ():
        if getattr(images, field) != default_of(type(images), field):
            yield images, field, "is for pictures, and data.frames asks for clips", "leave it out"


@reads("targets")
def targets_are_a_regex(adapter: LoRA) -> Iterator[Disagreement]:
    """What follows `re:` is a regular expression."""
    if isinstance(adapter.targets, str) and adapter.targets.startswith("re:"):
        try:
            re.compile(adapter.targets[3:])
        except re.error as error:
            hint = "mend the expression after `re:`"
            yield adapter, "targets", f"is not a regular expression: {error}", hint


@reads("ranks", "alphas")
def patterns_are_regexes(adapter: LoRA | LoHa | LoKr) -> Iterator[Disagreement]:
    """The names of other ranks and alphas are regular expressions."""
    for field in ("ranks", "alphas"):
        for pattern in dict(getattr(adapter, field)):
            try:
                re.compile(pattern)
            except re.error as error:
                what = f"has {pattern!r}, which is not a regular expression: {error}"
                yield adapter, field, what, "mend the expression"


@reads("dora", "rank_dropout", "module_dropout", "init")
def dora_stands_alone(adapter: LoRA) -> Iterator[Disagreement]:
    """A magnitude that learns beside dropped ranks would learn to make up for them; PiSSA's file is a plain LoRA."""
    if adapter.dora and adapter.init == "pissa":
        yield adapter, "init", "is 'pissa' beside adapter.dora", "keep one of the two"
    for field in ("rank_dropout", "module_dropout"):
        if adapter.dora and getattr(adapter, field):
            yield adapter, field, "is set beside adapter.dora, whose magnitudes stay", "keep one of the two"


@reads("train", "fit")
def optimizer_has_these_bits(experiment: Experiment) -> Iterator[Disagreement]:
    """Moments in 8 bits are AdamW's."""
    from lorac.spec import AdamW

    optimizer, bits = experiment.train.optimizer, experiment.fit.optimizer_bits
    if isinstance(optimizer, AdamW):
        return
    if bits == 8 or (isinstance(bits, Auto) and bits.choices == (8,)):
        what = f"is 8, and {type(optimizer).__name__} keeps its state in 32 bits"
        yield experiment.fit, "optimizer_bits", what, "leave it out, or train with AdamW"


@reads("name")
def name_makes_a_file(experiment: Experiment) -> Iterator[Disagreement]:
    """The name can be a file's, and a LoRA's in a prompt."""
    if fault := names.wrong(experiment.name):
        yield experiment, "name", f"{fault}, got {experiment.name!r}", "choose another name"


@reads("adapter", "fit")
def what_is_trained_does_not_wait(experiment: Experiment) -> Iterator[Disagreement]:
    """An encoder in which something is trained is needed in every step."""
    if experiment.fit.offload == "text_encoder" and runs_text_encoder(experiment):
        field = "text_encoder" if trains_text_encoder(experiment) else "words"
        what = f"is 'text_encoder', and adapter.{field} has it trained: it is used in every step"
        yield (
            experiment.fit,
            "offload",
            what,
            "train it and leave fit.offload open, or train the denoiser alone",
        )


@reads("processes", "shard", "quantization", "offload")
def split_blocks_are_nowhere_else(fit: Fit) -> Iterator[Disagreement]:
    """Blocks are split among several processes, as they are, and wait nowhere else."""
    if not fit.shard:
        return
    if fit.processes == 1:
        what = "is True, and fit.processes is 1: there is nobody to split the base with"
        yield fit, "shard", what, "set processes, one for each card, or leave shard out"
    if fit.quantization != "none":
        what = "is given, and fit.shard splits the base's weights as they are"
        yield fit, "quantization", what, "leave one of them out"
    if fit.offload == "blocks" or (isinstance(fit.offload, Auto) and fit.offload.choices == ("blocks",)):
        what = "is 'blocks', and fit.shard has the blocks wait on the other cards"
        yield fit, "offload", what, "leave one of them out"


@reads("prompts", "references")
def references_pair_prompts(samples: Samples) -> Iterator[Disagreement]:
    """References are one for each prompt, or none."""
    if samples.references and len(samples.references) != len(samples.prompts):
        what = f"has {len(samples.references)} pictures for {len(samples.prompts)} prompts"
        yield samples, "references", what, "give one picture for each prompt, or none"


@reads("save_steps", "save_epochs")
def saving_is_said_once(outputs: Outputs) -> Iterator[Disagreement]:
    """Checkpoints are each so many steps, or each so many epochs."""
    if outputs.save_steps and outputs.save_epochs:
        what = f"and outputs.save_steps are both given: {outputs.save_epochs:g} and {outputs.save_steps}"
        yield outputs, "save_epochs", what, "keep one of the two"


@reads("every", "every_epochs")
def drawing_is_said_once(samples: Samples | Answers) -> Iterator[Disagreement]:
    """Samples are made each so many steps, or each so many epochs."""
    if isinstance(samples.every, int) and samples.every_epochs is not None:
        what = f"and samples.every are both given: {samples.every_epochs:g} and {samples.every}"
        yield samples, "every_epochs", what, "keep one of the two"


@reads("data", "sequences", "samples")
def data_is_of_one_kind(experiment: Experiment) -> Iterator[Disagreement]:
    """Pictures come alone and are drawn; text comes in one file or several, and is asked."""
    from lorac.spec import Answers, Images, Samples, Sequences

    given = sets_of(experiment)
    pictures = [one for one in given if isinstance(one, Images)]
    if not given:
        yield experiment, "data", "is empty", "give a folder of pictures or a text file"
    if pictures and len(given) > 1:
        hint = "give one Images(…): its folders may have repeats; or text files only"
        yield experiment, "data", "has pictures beside other data", hint
    if pictures and isinstance(experiment.samples, Answers):
        yield experiment, "samples", "are Answers(…), and the data are pictures", "use Samples(prompts=…)"
    if pictures and experiment.sequences != Sequences():
        yield experiment, "sequences", "is given, and the data are pictures", "leave it out"
    if given and not pictures and experiment.samples != Samples() and isinstance(experiment.samples, Samples):
        yield experiment, "samples", "are Samples(…), and the data are text", "use Answers(prompts=…)"


OF_PICTURES = (
    *("text_encoder_learning_rate", "snr_gamma", "debiased", "loss", "noise_offset"),
    *("pyramid_iterations", "input_perturbation"),
)
"""Fields of `Train` that only a denoiser has."""


@reads("data", "adapter", "train")
def text_has_no_noise(experiment: Experiment) -> Iterator[Disagreement]:
    """What only a denoiser has is not set beside text: it would be passed over."""
    if not sets_of(experiment) or _has_pictures(experiment):
        return
    has_encoder = hasattr(experiment.adapter, "text_encoder")
    for part, fields in (
        (experiment.adapter, ("text_encoder", "words") if has_encoder else ()),
        (experiment.train, OF_PICTURES),
    ):
        for field in fields:
            if getattr(part, field) != getattr(type(part)(), field):
                yield part, field, "is set, and the data are text: it is for pictures only", "leave it out"


@reads("data", "adapter", "train", "outputs")
def what_pictures_cannot_have(experiment: Experiment) -> Iterator[Disagreement]:
    """Noise on token embeddings and their training are for language models."""
    if not _has_pictures(experiment):
        return
    if getattr(experiment.adapter, "also_train", ()):
        what = "is for language models, and the data are pictures"
        yield experiment.adapter, "also_train", what, "leave it out"
    if experiment.outputs.gguf:
        what = "is for language models, and the data are pictures"
        yield experiment.outputs, "gguf", what, "leave it out"
    if experiment.train.neftune_alpha is not None:
        what = "is noise on a language model's tokens, and the data are pictures"
        yield experiment.train, "neftune_alpha", what, "leave it out, or use noise_offset"


@reads("adapter", "fit")
def pissa_sees_the_whole_base(experiment: Experiment) -> Iterator[Disagreement]:
    """PiSSA's gain on a quantised base is that the rest is what is quantised, which is not done here."""
    fit = experiment.fit
    if getattr(experiment.adapter, "init", "") == "pissa" and fit.quantization != "none":
        yield fit, "quantization", "is set beside adapter.init 'pissa'", "leave one of the two out"


@reads("adapter", "train")
def lora_plus_has_a_b(experiment: Experiment) -> Iterator[Disagreement]:
    """LoRA+ is about LoRA's second matrix."""
    if experiment.train.lora_plus_ratio != 1 and experiment.adapter.METHOD != "lora":
        what = f"is LoRA's, and adapter is {type(experiment.adapter).__name__}(…)"
        yield experiment.train, "lora_plus_ratio", what, "leave it out"


@reads("data", "sequences", "evaluation", "outputs")
def evaluation_has_what_it_asks(experiment: Experiment) -> Iterator[Disagreement]:
    """What is decided by what is held out needs something held out; patience needs checkpoints to count."""
    evaluation = experiment.evaluation
    if not holds_out(experiment):
        field = "data.held_out" if _has_pictures(experiment) else "sequences.held_out"
        for name, is_asked in (
            ("choose", evaluation.choose == "best"),
            ("patience", evaluation.patience > 0),
        ):
            if is_asked:
                yield (
                    evaluation,
                    name,
                    f"needs what is held out, and {field} is 0",
                    f"set {field}, such as 0.1",
                )
    elif evaluation.patience and not experiment.outputs.save_steps and not experiment.outputs.save_epochs:
        what = "counts checkpoints, and outputs.save_steps is 0: there is one, at the end"
        yield evaluation, "patience", what, "set outputs.save_steps or outputs.save_epochs"


def holds_out(experiment: Experiment) -> bool:
    """Whether some of the data is measured on and never trained on."""
    from lorac.spec import Images

    shares = [one.held_out for one in sets_of(experiment) if isinstance(one, Images)]
    return max(shares, default=experiment.sequences.held_out) > 0


def _has_pictures(experiment: Experiment) -> bool:
    from lorac.spec import Images

    return any(isinstance(one, Images) for one in sets_of(experiment))


def sets_of(experiment: Experiment) -> tuple[Any, ...]:
    """What an experiment learns from: one data set that stands alone, or all of a tuple."""
    return experiment.data if isinstance(experiment.data, tuple) else (experiment.data,)


@reads("samples")
def pictures_have_prompts(experiment: Experiment) -> Iterator[Disagreement]:
    """Pictures that are asked for every so many steps have prompts."""
    samples = experiment.samples
    for field, is_set in (
        ("every", isinstance(samples.every, int)),
        ("every_epochs", samples.every_epochs is not None),
    ):
        if is_set and not samples.prompts:
            hint = f"give prompts, or leave `{field}` out"
            yield samples, field, "is set, but samples.prompts is empty", hint


@reads("train", "fit")
def batch_is_made_up(experiment: Experiment) -> Iterator[Disagreement]:
    """Some micro_batch * accumulation * processes is the effective batch."""
    if not batch_choices(experiment.fit, experiment.train.effective_batch):
        yield _no_batch(experiment.fit, experiment.train.effective_batch)


def trains_text_encoder(experiment: Experiment) -> bool:
    """Whether the text encoder is adapted too: methods for language models alone do not ask."""
    return bool(getattr(experiment.adapter, "text_encoder", False))


def runs_text_encoder(experiment: Experiment) -> bool:
    """Whether the text encoder is used in every step: it is adapted, or words in it have vectors that learn."""
    return trains_text_encoder(experiment) or bool(getattr(experiment.adapter, "words", ()))


def limits(owner: object, field: str) -> tuple[int, int]:
    """Least and greatest whole number that a field of the spec allows; the same twice where it is pinned."""
    value, rule = getattr(owner, field), rule_of(type(owner), field)
    if not isinstance(value, Auto):
        return value, value
    low = value.low if value.low is not None else rule.ge
    high = value.high if value.high is not None else rule.le
    if low is None or high is None:
        raise TypeError(f"{type(owner).__name__}.{field} has no least and greatest value")
    return int(low), int(high)


def batch_choices(fit: Fit, effective_batch: int) -> list[tuple[int, int]]:
    """Every (micro_batch, accumulation) that `fit` allows, smallest micro_batch first.

    micro_batch * accumulation * processes is effective_batch in each.
    """
    least, most = limits(fit, "micro_batch")
    fewest, many = limits(fit, "accumulation")
    share, rest = divmod(effective_batch, fit.processes)
    if rest:
        return []
    divisors = (micro for micro in range(least, min(most, share) + 1) if share % micro == 0)
    return [(micro, share // micro) for micro in divisors if fewest <= share // micro <= many]


def _no_batch(fit: Fit, effective_batch: int) -> Disagreement:
    micro, accumulation, processes = fit.micro_batch, fit.accumulation, fit.processes
    hint = "change one of them, or leave micro_batch and accumulation open with Auto()"
    wanted = f"train.effective_batch {effective_batch}"
    if isinstance(micro, int) and isinstance(accumulation, int):
        product = micro * accumulation * processes
        what = f"{micro} * accumulation {accumulation} * processes {processes} is {product}, not {wanted}"
        return fit, "micro_batch", what, hint
    if effective_batch % processes:
        return fit, "processes", f"must divide {wanted}, got {processes}", hint
    for field, value in (("micro_batch", micro), ("accumulation", accumulation)):
        if isinstance(value, int) and effective_batch % (value * processes):
            return fit, field, f"{value} * processes {processes} must divide {wanted}", hint
    what = f"{micro} and accumulation {accumulation} with processes {processes} cannot make up {wanted}"
    return fit, "micro_batch", what, hint
