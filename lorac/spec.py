"""The words a spec is written in.

- One `Experiment` holds the parts; each part is frozen, takes keywords, and refuses what is out of range
  where it is written. Its range is data on the field (`lorac.rules`): errors, docs and tests come from it.
- A value pins a number; `Auto(…)` leaves it to the planner, which never moves `effective_batch`.
- Paths are relative to the spec file's folder, output paths to the folder that lorac runs in.
- No torch here: a spec is read, and refused, in milliseconds.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from lorac import agree, agree_words
from lorac.agree import batch_choices, limits
from lorac.parts import Auto, part, setting
from lorac.rules import a_part, a_path, choice, flag, number, text, whole
from lorac.spec_adapter import ADAPTERS, IA3, LoHa, LoKr, LoRA, TextualInversion, VeRA
from lorac.spec_data import (
    SIDE,
    TEXTS,
    Completions,
    Conversations,
    Folder,
    Images,
    Instructions,
    Sequences,
    Text,
)
from lorac.spec_evaluation import Evaluation
from lorac.spec_optimizers import Adafactor, AdamW, Lion, Prodigy, ScheduleFreeAdamW
from lorac.spec_train import LARGEST_SEED, Train

if TYPE_CHECKING:
    from runtime.plan import Estimate, Plan

__all__ = [
    "IA3",
    "Adafactor",
    "AdamW",
    "Answers",
    "Auto",
    "Base",
    "Completions",
    "Conversations",
    "Evaluation",
    "Experiment",
    "Fit",
    "Folder",
    "Images",
    "Instructions",
    "Lion",
    "LoHa",
    "LoKr",
    "LoRA",
    "Outputs",
    "Prodigy",
    "Samples",
    "ScheduleFreeAdamW",
    "Sequences",
    "Text",
    "TextualInversion",
    "Train",
    "VeRA",
    "batch_choices",
    "limits",
]

Dtype = Literal["fp32", "bf16", "fp16"]
DTYPES = ("fp32", "bf16", "fp16")


@part("base")
class Base:
    """The frozen model that the LoRA adapts."""

    path: str = setting(a_path(), "A diffusers folder, or one .safetensors or .ckpt file.", kw_only=False)
    parts: tuple[str, ...] = setting(
        a_path(many=True),
        "Where that is a transformer alone: the files of its text encoders and its VAE, and its tokenizer's folder.",
        default=(),
    )
    family: str = setting(
        text(regex=r"[a-z][a-z0-9_]*", regex_means='"auto" or a family\'s name such as "sd1"'),
        'Its architecture; "auto" recognises it from the tensors, never from the file\'s name.',
        default="auto",
    )
    prediction_type: Auto | Literal["epsilon", "v_prediction"] = setting(
        choice("epsilon", "v_prediction", auto="open"),
        "What the model predicts; Auto() asks the base's own files.",
        default=Auto(),
    )
    zero_terminal_snr: bool | Auto = setting(
        flag(auto="open"),
        "Whether its noise schedule ends in pure noise; Auto() asks the base's own files.",
        default=Auto(),
    )
    clip_skip: int = setting(
        whole(ge=1, le=12),
        "The layer of Stable Diffusion 1.x's text tower that is read, counted from its end as the WebUI does: 2 leaves "
        "the last one out, which many anime bases want.",
        default=1,
    )
    published: str = setting(
        text(),
        'Which published language model it is, such as "llama-3-8b", to plan with --unlocked while it is elsewhere.',
        default="",
    )
    trust_remote_code: bool = setting(
        flag(),
        "Run the Python files that a Transformers base brings along. Read them first: they can do anything you can.",
        default=False,
    )
    license: str = setting(text(), "The base's licence, recorded in the LoRA's metadata.", default="")


@part("fit", agree.split_blocks_are_nowhere_else)
class Fit:
    """How the step is laid on the card: what the planner may trade for memory and time."""

    card: str = setting(
        text(
            regex=r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}",
            regex_means='"auto", a card\'s name, or memory such as "12GB"',
        ),
        'The card to fit: "auto" (the one that is here), a name, or GiB of memory.',
        default="auto",
    )
    micro_batch: int | Auto = setting(
        whole(ge=1, le=4096, auto="range", unit="samples"),
        "Samples per forward pass on each process.",
        default=Auto(),
    )
    accumulation: int | Auto = setting(
        whole(ge=1, le=65536, auto="range"), "Forward passes per optimizer step.", default=Auto()
    )
    processes: int = setting(
        whole(ge=1, le=1024), "Processes that share an optimizer step, one per card.", default=1
    )
    shard: bool = setting(
        flag(),
        "Split the frozen base's blocks among the processes (FSDP2), for a base that does not fit one card.",
        default=False,
    )
    threads: int | Auto = setting(
        whole(ge=1, le=1024, auto="open"),
        "Threads that a CPU computes with; another count gives other last bits. Auto(): one a core.",
        default=Auto(),
    )
    gradient_checkpointing: bool | Auto = setting(
        flag(auto="open"),
        "Recompute activations in the backward pass: less memory, more time.",
        default=Auto(),
    )
    dtype: Dtype | Auto = setting(
        choice(*DTYPES, auto="choice"), "The base's dtype; the adapter's weights are fp32.", default=Auto()
    )
    quantization: Literal["none", "nf4", "int8", "fp8"] | Auto = setting(
        choice("none", "nf4", "int8", "fp8", auto="choice"),
        "Hold the frozen base in fewer bits; it changes what is trained, so it is never chosen unasked.",
        default="none",
    )
    optimizer_bits: Literal[8, 32] | Auto = setting(
        choice(8, 32, auto="choice"), "Bits of AdamW's moments; every other optimizer has 32.", default=32
    )
    paged_optimizer: bool = setting(
        flag(),
        "Have the optimizer's state wait in the computer's memory between steps; the result is the same.",
        default=False,
    )
    deterministic: bool = setting(
        flag(),
        "Stop at an operator that has no exact form on a card, where the last bits of a run may differ otherwise.",
        default=False,
    )
    offload: Literal["none", "text_encoder", "blocks"] | Auto = setting(
        choice("none", "text_encoder", "blocks", auto="choice"),
        "What waits in the computer's memory while it is not used: encoders, or blocks of the base as well.",
        default=Auto(),
    )
    attention_chunks: int | Auto = setting(
        whole(ge=1, le=64, auto="range"),
        "Slices in which attention is computed, one after the other.",
        default=Auto(),
    )
    compile: bool | Auto = setting(
        flag(auto="open"),
        "Compile the blocks of a packed language model's step on a CPU in bf16; Auto(): where it pays back in the run.",
        default=Auto(),
    )


@part("samples", agree.references_pair_prompts, agree.drawing_is_said_once)
class Samples:
    """Pictures made from fixed prompts and seeds while training, and at its end."""

    prompts: tuple[str, ...] = setting(text(many=True), "What to draw; empty draws nothing.", default=())
    negative_prompt: str = setting(text(), "What to keep away from.", default="")
    seed: int = setting(whole(ge=0, le=LARGEST_SEED), "Seed of the first picture.", default=0)
    steps: int | Auto = setting(
        whole(ge=1, le=1000, auto="open"), "Sampling steps; Auto() is the family's usual.", default=Auto()
    )
    guidance: float | Auto = setting(
        number(ge=0, le=100, auto="open"),
        "Guidance; 1 is off where it is classifier-free. Auto() is the family's usual.",
        default=Auto(),
    )
    every: int | Auto = setting(
        whole(ge=1, le=10_000_000, auto="open", unit="steps"),
        "Draw each so many steps; Auto(): at each checkpoint.",
        default=Auto(),
    )
    every_epochs: float | None = setting(
        number(gt=0, le=100_000, none="as every says"),
        "Draw each so many epochs; give this or every.",
        default=None,
    )
    weight: float = setting(number(ge=0, le=2), "Weight of the LoRA while drawing.", default=1.0)
    references: tuple[str, ...] = setting(
        text(many=True),
        "Pictures that the contact sheet shows beside the samples: one a prompt, or none.",
        default=(),
    )
    width: int | Auto = setting(SIDE, "Auto() is the data's resolution.", default=Auto())
    height: int | Auto = setting(SIDE, "Auto() is the data's resolution.", default=Auto())


@part("samples", agree.drawing_is_said_once)
class Answers:
    """Answers of a language model to fixed prompts while training, and at its end, with the LoRA and without."""

    prompts: tuple[str, ...] = setting(
        text(many=True, lines=True, longest=10_000), "What to ask; empty asks nothing.", default=()
    )
    system: str = setting(text(lines=True, longest=10_000), "The system message.", default="")
    max_tokens: int = setting(
        whole(ge=1, le=65536, unit="tokens"), "An answer's tokens at most.", default=128
    )
    temperature: float = setting(
        number(ge=0, le=10), "0 takes the likeliest token, more draws more freely.", default=0.0
    )
    seed: int = setting(whole(ge=0, le=LARGEST_SEED), "Seed of the first answer.", default=0)
    every: int | Auto = setting(
        whole(ge=1, le=10_000_000, auto="open", unit="steps"),
        "Ask each so many steps; Auto(): at each checkpoint.",
        default=Auto(),
    )
    every_epochs: float | None = setting(
        number(gt=0, le=100_000, none="as every says"),
        "Ask each so many epochs; give this or every.",
        default=None,
    )


@part("outputs", agree.saving_is_said_once)
class Outputs:
    """What is written, where, and with which words."""

    output_dir: str = setting(
        a_path(), "Each run writes in a folder of its own name in here.", default="output"
    )
    log_dir: str | Auto = setting(
        a_path(auto="open"), "TensorBoard's folder; Auto() is logs/ in the run's own.", default=Auto()
    )
    save_steps: int = setting(
        whole(ge=0, le=10_000_000, unit="steps"),
        "Save a checkpoint each so many steps; 0: at the end only.",
        default=0,
    )
    save_epochs: float = setting(
        number(ge=0, le=100_000, unit="epochs"),
        "The same in epochs, 0.5 is twice an epoch; give this or save_steps.",
        default=0.0,
    )
    keep_checkpoints: int = setting(whole(ge=1, le=10_000), "Newest checkpoints to keep.", default=2)
    dtype: Dtype = setting(choice(*DTYPES), "Dtype of the LoRA's file.", default="fp16")
    gguf: bool = setting(
        flag(), "Write a language model's LoRA for llama.cpp too, as NAME-adapter.gguf.", default=False
    )
    preferred_weight: float = setting(number(gt=0, le=2), "The weight that the WebUI offers.", default=0.8)
    description: str = setting(text(lines=True, longest=10_000), "Shown beside the LoRA.", default="")
    author: str = setting(text(), "Who made it.", default="")
    license: str = setting(text(), "The LoRA's own licence.", default="")
    notes: str = setting(text(lines=True, longest=10_000), "The WebUI's notes.", default="")
    negative_text: str = setting(text(), "What the WebUI adds to the negative prompt.", default="")
    tags: tuple[str, ...] = setting(text(many=True, longest=100), "Words to find it by.", default=())


@part(
    "",
    agree.name_makes_a_file,
    agree.data_is_of_one_kind,
    agree.text_has_no_noise,
    agree.pictures_have_prompts,
    agree.batch_is_made_up,
    agree.what_is_trained_does_not_wait,
    agree.optimizer_has_these_bits,
    agree.what_pictures_cannot_have,
    agree.lora_plus_has_a_b,
    agree_words.words_have_their_rate,
    agree.pissa_sees_the_whole_base,
    agree.evaluation_has_what_it_asks,
)
class Experiment:
    """One LoRA to train: all that a person decides about it."""

    name: str = setting(
        text(
            regex=r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,62}[A-Za-z0-9_-])?",
            regex_means="1 to 64 of A-Z a-z 0-9 _ . - (first a letter or digit, last not a dot)",
        ),
        "Names the run, its folder and its files; how the LoRA is called in a prompt.",
    )
    base: Base = setting(a_part(Base, lift=True), "The model to adapt; a plain path will do.")
    data: Images | Instructions | Conversations | Completions | Text | tuple[object, ...] = setting(
        a_part(Images, others=TEXTS, many=True),
        "What to learn from: a folder of pictures; or one text file, or several.",
    )
    sequences: Sequences = setting(
        a_part(Sequences), "How text becomes sequences of tokens; not for pictures.", default=Sequences()
    )
    adapter: LoRA | LoHa | LoKr | VeRA | IA3 = setting(
        a_part(LoRA, others=ADAPTERS), "What is trained.", default=LoRA()
    )
    train: Train = setting(a_part(Train), "How it is trained.", default=Train())
    fit: Fit = setting(a_part(Fit), "How it is made to fit the card.", default=Fit())
    samples: Samples | Answers = setting(
        a_part(Samples, others=(Answers,)), "What is drawn, or asked, on the way.", default=Samples()
    )
    evaluation: Evaluation = setting(
        a_part(Evaluation), "What is decided by what is held out.", default=Evaluation()
    )
    outputs: Outputs = setting(a_part(Outputs), "What is written.", default=Outputs())

    def plan(self, card: str | None = None, unlocked: bool = False) -> Plan:
        """Compile it. `card` overrules fit.card ("12GB"); `unlocked` plans without base and data at hand.

        Raises SpecError, InputError (base or data), MachineError.
        """
        from lorac.compile import compile_experiment

        return compile_experiment(self, Path.cwd(), self.folder(), card, unlocked)

    def estimate(self, card: str | None = None, unlocked: bool = False) -> Estimate:
        """What it would cost: memory by kind at the peak, seconds a step, what was rejected. As `plan`."""
        return self.plan(card=card, unlocked=unlocked).estimate

    def folder(self) -> Path:
        """The folder that the spec's paths are relative to: its file's, or the current one in a notebook."""
        origin = self._origin  # type: ignore[attr-defined]  # every part has one (lorac.parts)
        file = Path(origin.file) if origin else None
        return file.parent if file and file.is_file() else Path.cwd()
