"""The words for what is trained: LoRA and its kin. A part of `lorac.spec`, which has the names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from lorac import agree, agree_words
from lorac.parts import Auto, part, setting
from lorac.rules import a_part, choice, flag, number, text, whole
from runtime import names

TARGETS = text(
    choices=("qkv", "qkvo", "qkvo+ff", "qkvo+ff+conv", "attention", "all-linear"),
    regex=r"re:.+",
    regex_means="re:<regular expression over module names>",
    auto="open",
)
LARGEST_RANK = 1024


@part("adapter.words")
class TextualInversion:
    """A word of the captions with vectors of its own in every CLIP text encoder, trained beside the adapter (Gal et al.
    2022, arXiv:2208.01618). Stable Diffusion 1, 2 and XL."""

    word: str = setting(
        text(
            regex=names.WORD,
            regex_means='a word such as "crest" or "<crest>" of A-Z a-z 0-9 _ -, from a letter to a letter or digit',
        ),
        "The word, as captions and prompts have it; programs call its file by it, without < and >.",
        kw_only=False,
    )
    initial: str = setting(
        text(),
        'What its vectors begin as: words for something like it, such as "emblem"; empty is the word itself.',
        default="",
    )
    vectors: int = setting(
        whole(ge=1, le=64), "How many vectors it has: as many tokens of a caption's 75.", default=1
    )
    learning_rate: float | Auto = setting(
        number(ge=0, le=1, auto="open"),
        "Its vectors' own rate; Auto() is train.learning_rate.",
        default=Auto(),
    )


Pairs = tuple[tuple[str, Any], ...]
"""What a mapping is kept as: in its order, and nobody can change it."""

# Fields that several of them have: attrs takes the same one in any class.
RANK: Any = setting(
    whole(ge=1, le=LARGEST_RANK, auto="range"),
    "Rank of the update: what it can say, and what it costs.",
    default=Auto(4, 32, prefer=16),
)
ALPHA: Any = setting(
    number(gt=0, le=65536, auto="open"),
    "The update is scaled by alpha / rank; Auto() is rank.",
    default=Auto(),
)
RANKS: Any = setting(
    whole(ge=1, le=LARGEST_RANK, keyed="regular expressions over module names"),
    "Other ranks for the modules whose whole name an expression matches; the last one that does counts.",
    default=(),
)
ALPHAS: Any = setting(
    number(gt=0, le=65536, keyed="regular expressions over module names"),
    "Other alphas, likewise; where alpha is Auto(), alpha goes with the rank.",
    default=(),
)
ADAPTED: Any = setting(
    TARGETS,
    "Adapted layers. Pictures: attention's q, k, v (Auto()); with its output; feed-forward layers; convolutions. "
    "Language models: all linear layers (Auto()), or attention's.",
    default=Auto(),
)
TEXT_ENCODER: Any = setting(flag(), "Adapt the text encoder too.", default=False)
WORDS: Any = setting(
    a_part(TextualInversion, many=True),
    "Words that get vectors of their own, trained beside the adapter; each is written to a file of its own.",
    default=(),
)
ALSO_TRAIN: Any = setting(
    text(many=True, choices=("embeddings", "lm_head")),
    "What of a language model is trained whole beside it; where the base ties the two, embeddings are both. "
    "PEFT's modules_to_save, which vLLM and llama.cpp refuse.",
    default=(),
)
DROPOUT: Any = setting(number(ge=0, lt=1), "Share of the adapter's inputs dropped in training.", default=0.0)
RANK_DROPOUT: Any = setting(
    number(ge=0, lt=1),
    "Share of the rank (of LoHa and LoKr: of the weight's rows) dropped for a sample.",
    default=0.0,
)
MODULE_DROPOUT: Any = setting(
    number(ge=0, lt=1), "Share of the adapted modules dropped for a sample.", default=0.0
)


@part(
    "adapter",
    agree.targets_are_a_regex,
    agree.patterns_are_regexes,
    agree_words.words_are_named_once,
    agree.dora_stands_alone,
)
class LoRA:
    """The trained part: B·A of low rank added to frozen weights (Hu et al. 2021, arXiv:2106.09685)."""

    METHOD = "lora"

    rank: int | Auto = RANK
    alpha: float | Auto = ALPHA
    ranks: Mapping[str, int] | Pairs = RANKS
    alphas: Mapping[str, float] | Pairs = ALPHAS
    rslora: bool = setting(
        flag(),
        "Scale the update by alpha / √rank, which keeps high ranks learning (Kalajdzievski 2023, arXiv:2312.03732).",
        default=False,
    )
    dora: bool = setting(
        flag(),
        "Learn the lengths of weights apart from their directions (DoRA, Liu et al. 2024, arXiv:2402.09353). "
        "Of pictures' programs A1111, Forge and ComfyUI read it; vLLM and llama.cpp do not.",
        default=False,
    )
    dropout: float = DROPOUT
    rank_dropout: float = RANK_DROPOUT
    module_dropout: float = MODULE_DROPOUT
    targets: str | Auto = ADAPTED
    text_encoder: bool = TEXT_ENCODER
    words: tuple[TextualInversion, ...] = WORDS
    also_train: tuple[Literal["embeddings", "lm_head"], ...] = ALSO_TRAIN
    init: Literal["kaiming", "gaussian", "pissa"] = setting(
        choice("kaiming", "gaussian", "pissa"),
        "How A begins (gaussian: std 0.02), with B at zero; or both at the base's largest singular values (PiSSA, Meng "
        "et al. 2024, arXiv:2404.02948), which doubles the rank in the file.",
        default="kaiming",
    )


@part("adapter", agree.targets_are_a_regex, agree.patterns_are_regexes, agree_words.words_are_named_once)
class LoHa:
    """An elementwise product of two low ranks: rank² at twice LoRA's size (Hyeon-Woo et al. 2022, arXiv:2108.06098).

    Of pictures' programs A1111, Forge and ComfyUI read it; of language models' PEFT alone.
    """

    METHOD = "loha"

    rank: int | Auto = RANK
    alpha: float | Auto = ALPHA
    ranks: Mapping[str, int] | Pairs = RANKS
    alphas: Mapping[str, float] | Pairs = ALPHAS
    rank_dropout: float = RANK_DROPOUT
    module_dropout: float = MODULE_DROPOUT
    targets: str | Auto = ADAPTED
    text_encoder: bool = TEXT_ENCODER
    words: tuple[TextualInversion, ...] = WORDS
    also_train: tuple[Literal["embeddings", "lm_head"], ...] = ALSO_TRAIN


@part("adapter", agree.targets_are_a_regex, agree.patterns_are_regexes, agree_words.words_are_named_once)
class LoKr:
    """A Kronecker product, very small for what it says (Edalati et al. 2022, arXiv:2212.10650; Yeh et al. 2024).

    Of pictures' programs A1111, Forge and ComfyUI read it; of language models' PEFT alone.
    """

    METHOD = "lokr"

    rank: int | Auto = RANK
    alpha: float | Auto = ALPHA
    ranks: Mapping[str, int] | Pairs = RANKS
    alphas: Mapping[str, float] | Pairs = ALPHAS
    factor: int | Auto = setting(
        whole(ge=2, le=65536, auto="open"),
        "One side of the first matrix, where it divides the weight's; Auto(): as near to a square as can be.",
        default=Auto(),
    )
    rank_dropout: float = RANK_DROPOUT
    module_dropout: float = MODULE_DROPOUT
    targets: str | Auto = ADAPTED
    text_encoder: bool = TEXT_ENCODER
    words: tuple[TextualInversion, ...] = WORDS
    also_train: tuple[Literal["embeddings", "lm_head"], ...] = ALSO_TRAIN


@part("adapter", agree.targets_are_a_regex)
class VeRA:
    """Two vectors a layer beside random matrices that all share (Kopiczko et al. 2024, arXiv:2310.11454).

    Language models only, read by PEFT alone. It wants a higher rank and learning rate than LoRA: 256, 4e-3.
    """

    METHOD = "vera"

    rank: int | Auto = setting(
        whole(ge=1, le=16384, auto="range"), "Rank of the shared matrices.", default=Auto(64, 256, prefer=256)
    )
    dropout: float = DROPOUT
    targets: str | Auto = ADAPTED
    also_train: tuple[Literal["embeddings", "lm_head"], ...] = ALSO_TRAIN


@part("adapter", agree.targets_are_a_regex)
class IA3:
    """(IA)³: a vector that a layer's output is multiplied by (Liu et al. 2022, arXiv:2205.05638).

    Language models only, read by PEFT alone. It wants a higher learning rate than LoRA: 3e-3.
    """

    METHOD = "ia3"

    targets: str | Auto = setting(
        TARGETS,
        "Adapted layers: as in the paper keys, values and the last layer of feed-forward blocks, by Llama's names.",
        default=r"re:.*\.(k_proj|v_proj|down_proj)",
    )
    also_train: tuple[Literal["embeddings", "lm_head"], ...] = ALSO_TRAIN


ADAPTERS = (LoHa, LoKr, VeRA, IA3)
"""What `Experiment.adapter` takes besides LoRA."""
