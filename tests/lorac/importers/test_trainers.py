"""What each trainer's keys mean: the numbers of the spec, and the reasons of what is left."""

from __future__ import annotations

from typing import Any

import pytest

from lorac import (
    Adafactor,
    AdamW,
    Answers,
    Conversations,
    Experiment,
    Images,
    Instructions,
    Lion,
    Prodigy,
    ScheduleFreeAdamW,
)
from lorac.importers import importer, words
from lorac.importers.ledger import Draft, experiment


def made(draft: Draft) -> Experiment:
    """The experiment, with stand-ins for what the source does not say."""
    values = {field: setting.value for field, setting in draft.settings.items()}
    return experiment({"name": "x", "base.path": "b", **values}, draft.kinds)


def left(draft: Draft) -> dict[str, str]:
    return {fate.key: fate.what for fate in draft.of("left")}


def test_the_original(convert: Any) -> None:
    draft = convert("original")
    one = made(draft)
    assert isinstance(one.data, Images)
    assert (one.adapter.rank, one.adapter.alpha, one.adapter.dropout) == (8, 16.0, 0.1)
    assert (one.adapter.targets, one.adapter.init) == ("qkv", "gaussian")
    assert (one.train.effective_batch, one.train.epochs, one.train.learning_rate) == (8, 10, 2e-4)
    assert (one.data.metadata_path, one.outputs.log_dir) == ("data/cyberpunk/metadata.csv", "logs")
    assert set(left(draft)) == {"training.focal_loss"}


def test_the_originals_keys_may_stand_without_sections(read: Any) -> None:
    flat = "base_model: a\ntrain_data_dir: b\nlora_rank: 4\nbatch_size: 2\nmax_steps: 10\nscheduler: linear\n"
    one = made(importer("original").convert(read(flat), {}))
    assert (one.adapter.rank, one.train.steps, one.train.scheduler, one.train.effective_batch) == (
        4,
        10,
        "linear",
        2,
    )


def test_kohyas_data_set_overrules_and_the_subset_most(convert: Any) -> None:
    draft = convert("kohya")
    one = made(draft)
    assert isinstance(one.data, Images)
    assert (one.data.path, one.data.repeats, one.data.caption_extension) == ("cats", 10, ".txt")
    assert (one.data.flip, one.data.buckets, one.data.upscale) == (True, True, True)
    assert one.data.resolution == 624  # about the side of a square with the area of 512 * 768
    assert one.train.effective_batch == 3 * 2
    assert left(draft)["dataset_config.datasets[0].subsets[2].image_dir"].startswith("another set")
    assert one.base.clip_skip == 2


def test_kohyas_training(convert: Any) -> None:
    one = made(convert("kohya"))
    assert (one.train.steps, one.train.warmup_steps, one.train.learning_rate) == (1000, 100, 1e-4)
    assert (one.adapter.text_encoder, one.train.text_encoder_learning_rate) == (True, 5e-5)
    assert (one.train.optimizer.weight_decay, one.train.optimizer.beta2) == (0.1, 0.95)
    assert (one.fit.optimizer_bits, one.fit.dtype, one.adapter.targets) == (8, "bf16", "qkvo+ff")


def test_kohyas_defaults_are_spelt_out_where_lorac_has_others(read: Any) -> None:
    text = 'network_module = "networks.lora"\npretrained_model_name_or_path = "a"\ntrain_data_dir = "b"\n'
    one = made(importer("kohya").convert(read(text), {}))
    assert (one.adapter.rank, one.adapter.alpha, one.train.scheduler) == (4, 1.0, "constant")
    assert (one.train.steps, one.train.learning_rate, one.train.effective_batch) == (1600, 2e-6, 1)


def test_a_default_does_not_take_the_place_of_what_could_not_be_carried(convert: Any) -> None:
    draft = convert("kohya", **{'lr_scheduler = "cosine"': 'lr_scheduler = "piecewise_constant"'})
    assert "train.scheduler" not in draft.settings
    assert "optimizer.lr_scheduler" in left(draft)


@pytest.mark.parametrize("off", ["network_train_unet_only = true", "text_encoder_lr = 0"])
def test_kohyas_text_encoder_is_trained_unless_told_otherwise(off: str, read: Any) -> None:
    text = f'network_module = "networks.lora"\ntrain_data_dir = "b"\n{off}\n'
    assert made(importer("kohya").convert(read(text), {})).adapter.text_encoder is False


EXPERT = """
network_module = "networks.lora"
train_data_dir = "b"
shuffle_caption = true
keep_tokens = 2
random_crop = true
caption_tag_dropout_rate = 0.1
alpha_mask = true
loss_type = "huber"
huber_schedule = "exponential"
huber_c = 0.2
debiased_estimation_loss = true
multires_noise_iterations = 6
ip_noise_gamma = 0.05
v_parameterization = true
zero_terminal_snr = true
"""


def test_kohyas_terms_of_loss_and_noise_and_its_tags_are_carried(read: Any) -> None:
    draft = importer("kohya").convert(read(EXPERT), {})
    one = made(draft)

    assert isinstance(one.data, Images)
    assert (one.data.shuffle_tags, one.data.keep_tags, one.data.tag_dropout) == (True, 2, 0.1)
    assert (one.train.loss, one.train.huber_schedule, one.train.huber_c) == ("huber", "exponential", 0.2)
    assert (one.data.alpha_mask, one.train.debiased, one.train.input_perturbation) == (True, True, 0.05)
    assert one.data.random_crop
    assert (one.train.pyramid_iterations, one.train.pyramid_discount) == (6, 0.3)  # kohya's default
    assert (one.base.prediction_type, one.base.zero_terminal_snr) == ("v_prediction", True)
    assert left(draft) == {}


def test_what_hangs_on_something_that_is_off_needs_no_word(read: Any) -> None:
    off = {
        "shuffle_caption = true": "shuffle_caption = false",
        "caption_tag_dropout_rate = 0.1": "",
        '"huber"': '"l2"',
        "multires_noise_iterations = 6": "multires_noise_discount = 0.3",
    }
    text = EXPERT
    for on, instead in off.items():
        text = text.replace(on, instead)
    draft = importer("kohya").convert(read(text), {})
    made(draft)

    assert left(draft) == {}


@pytest.mark.parametrize("module", ["lycoris.kohya", "networks.oft", "networks.dylora"])
def test_another_method_is_told(module: str, convert: Any) -> None:
    draft = convert("kohya", **{"networks.lora": module})
    assert left(draft)["network.network_module"] == "lorac trains LoRA (networks.lora)"


def test_the_rate_of_an_optimizer_that_finds_its_own_is_no_rate_for_adamw(convert: Any) -> None:
    draft = convert("kohya-gui", **{'"Prodigy"': '"DAdaptAdam"'})
    assert "train.learning_rate" not in draft.settings
    assert "scales it by itself" in left(draft)["learning_rate"]
    assert any(line.startswith("train.learning_rate") for line in draft.todo)


def test_the_guis_form(convert: Any) -> None:
    draft = convert("kohya-gui")
    one = made(draft)
    assert (one.train.epochs, one.adapter.rank, one.train.effective_batch) == (4, 16, 2)
    assert (one.samples.prompts, one.samples.height) == (("a cat", "a dog"), 768)  # type: ignore[union-attr]
    assert one.train.warmup_ratio == 0.1
    assert left(draft)["wandb_api_key"] == "a secret has no place in a spec"
    assert isinstance(one.data, Images) and one.data.shuffle_tags


@pytest.mark.parametrize(
    ("name", "kind", "bits", "paged"),
    [
        ("AdamW", AdamW, 32, False),
        ("PagedAdamW8bit", AdamW, 8, True),
        ("AdaFactor", Adafactor, 32, False),
        ("Lion", Lion, 32, False),
        ("Lion8bit", Lion, 32, False),
        ("PagedLion8bit", Lion, 32, True),
        ("prodigyopt.Prodigy", Prodigy, 32, False),
        ("AdamWScheduleFree", ScheduleFreeAdamW, 32, False),
    ],
)
def test_an_optimizer_is_lorac_s_of_that_name(
    name: str, kind: type, bits: int, paged: bool, convert: Any
) -> None:
    draft = convert("kohya", **{'"AdamW8bit"': f'"{name}"'})
    one = made(draft)
    assert type(one.train.optimizer) is kind
    assert (one.fit.optimizer_bits, one.fit.paged_optimizer) == (bits, paged)
    assert one.train.optimizer.weight_decay == 0.1


def test_arguments_go_to_the_optimizers_own_fields_and_the_rest_is_told(convert: Any) -> None:
    args = '["decouple=True", "d_coef=2", "use_bias_correction=True", "growth_rate=inf", "slice_p=11"]'
    changes = {'"AdamW8bit"': '"Prodigy"', '["weight_decay=0.1", "betas=0.9,0.95"]': args}
    draft = convert("kohya", **changes, **{"unet_lr = 1e-4\ntext_encoder_lr = 5e-5": "learning_rate = 1.0"})
    one = made(draft)
    assert one.train.optimizer == Prodigy(d_coef=2.0, bias_correction=True, weight_decay=0.0)
    assert one.train.learning_rate == 1.0
    assert "not slice_p; the rest was carried" in left(draft)["optimizer.optimizer_args"]


def test_the_rate_that_adafactor_found_itself_is_none_for_lorac_s(convert: Any) -> None:
    draft = convert("kohya", **{'"AdamW8bit"': '"Adafactor"'})
    assert "train.learning_rate" not in draft.settings
    assert "relative_step" in left(draft)["optimizer.unet_lr"]
    said = {'"betas=0.9,0.95"': '"relative_step=False", "scale_parameter=False"'}
    assert made(convert("kohya", **{'"AdamW8bit"': '"Adafactor"'}, **said)).train.learning_rate == 1e-4


def test_a_rate_that_is_no_scale_is_left_with_prodigy_s_own_words(convert: Any) -> None:
    draft = convert("ai-toolkit", **{"optimizer: adamw8bit": "optimizer: prodigy"})
    one = made(draft)
    assert one.train.optimizer == Prodigy(weight_decay=1e-4, eps=1e-6)
    assert one.train.learning_rate == 1.0
    assert "only scales the rate that Prodigy finds" in left(draft)["train.lr"]


def test_ai_toolkits_job(convert: Any) -> None:
    draft = convert("ai-toolkit")
    one = made(draft)
    assert isinstance(one.data, Images)
    assert (one.name, one.data.trigger, one.data.prepend_trigger) == ("cats", "p3r5on", True)
    assert (one.train.effective_batch, one.train.steps, one.train.learning_rate) == (6, 2000, 1e-4)
    assert (one.train.optimizer.weight_decay, one.train.optimizer.eps) == (1e-4, 1e-6)
    assert one.samples.prompts == ("p3r5on at the beach",)
    assert (one.data.resolution, one.data.more_resolutions) == (768, (512,))
    assert one.train.ema == 0.99
    assert set(left(draft)) == {"datasets[1].folder_path"}


def test_onetrainers_preset(convert: Any) -> None:
    draft = convert("onetrainer")
    one = made(draft)
    assert isinstance(one.data, Images)
    assert (one.base.family, one.adapter.targets, one.adapter.alpha) == ("sd1", "qkvo+ff", 1.0)
    assert (one.data.path, one.data.repeats, one.data.flip) == ("img", 2, True)
    assert (one.data.random_crop, one.data.picture_variants) == (True, 3)
    assert any("hue_jitter" in why for why in left(draft).values())
    assert (one.fit.quantization, one.adapter.text_encoder, one.train.warmup_steps) == ("nf4", False, 200)
    assert (one.train.snr_gamma, one.train.optimizer.weight_decay, one.name) == (5.0, 0.02, "cats")
    assert (one.samples.prompts, one.samples.seed) == (("a cat",), 3)
    assert "masked_training" in left(draft)
    assert (one.data.shuffle_tags, one.data.keep_tags) == (True, 0)


def test_simpletuners_config(convert: Any) -> None:
    draft = convert("simpletuner")
    one = made(draft)
    assert isinstance(one.data, Images)
    assert (one.data.resolution, one.data.repeats, one.data.buckets) == (512, 5, False)
    assert (one.name, one.outputs.output_dir) == ("cats", "output")
    assert (one.train.scheduler, one.train.warmup_steps, one.train.max_grad_norm) == ("polynomial", 50, 2.0)
    assert (one.samples.width, one.samples.height, one.adapter.targets) == (512, 768, "qkvo")  # type: ignore[union-attr]
    assert one.data.random_crop
    assert set(left(draft)) == {"flow_schedule_shift", "push_to_hub"}


def test_llama_factorys_data_sets_are_files_with_their_own_columns(convert: Any) -> None:
    draft = convert("llama-factory")
    one = made(draft)
    assert one.data == (
        Instructions("data/identity.json", instruction="question", output="answer"),
        Conversations("data/chats.json", messages="turns"),
    )
    assert (one.sequences.length, one.sequences.packing, one.sequences.template) == (1024, True, "llama3")
    assert (one.adapter.alpha, one.adapter.targets) == (16.0, r"re:(.*\.)?(q_proj|v_proj)")
    assert (one.train.steps, one.train.warmup_steps, one.train.effective_batch) == (100, 10, 16)
    assert (one.sequences.held_out, one.fit.dtype, one.name) == (0.1, "bf16", "sft")


def test_a_models_own_code_is_never_switched_on_by_an_import(convert: Any) -> None:
    draft = convert("llama-factory")
    assert made(draft).base.trust_remote_code is False
    assert "trust_remote_code" in left(draft)


def test_axolotls_config(convert: Any) -> None:
    one = made(convert("axolotl"))
    assert one.data == (
        Instructions("data/alpaca.jsonl"),
        Conversations("data/chats.jsonl", messages="messages"),
    )
    assert (one.adapter.targets, one.adapter.rank, one.fit.quantization) == ("all-linear", 32, "nf4")
    assert (one.train.effective_batch, one.train.epochs, one.fit.optimizer_bits) == (8, 3, 8)
    assert (one.sequences.packing, one.sequences.held_out) == (True, 0.05)
    assert not isinstance(one.samples, Answers)


@pytest.mark.parametrize(
    ("trainer", "old", "key", "said"),
    [
        ("axolotl", "lora_alpha: 16", "lora_modules_to_save", "[embed_tokens, lm_head]"),
        ("llama-factory", "lora_rank: 8", "additional_target", "embed_tokens,model.lm_head"),
    ],
)
def test_modules_trained_whole_are_carried_and_others_left(
    convert: Any, trainer: str, old: str, key: str, said: str
) -> None:
    both = convert(trainer, **{old: f"{old}\n{key}: {said}"})
    other = convert(trainer, **{old: f"{old}\n{key}: {said.replace('embed_tokens', 'norm')}"})

    assert made(both).adapter.also_train == ("embeddings", "lm_head")
    assert made(other).adapter.also_train == () and "not norm" in left(other)[key]


@pytest.mark.parametrize(
    ("role", "content", "style"), [("from", "value", "sharegpt"), ("role", "content", "messages")]
)
@pytest.mark.parametrize("old", [False, True])
def test_axolotls_names_of_a_turns_parts_are_a_style_of_conversations(
    role: str, content: str, style: str, old: bool, convert: Any
) -> None:
    new_names = f"message_property_mappings: {{role: {role}, content: {content}}}"
    old_names = f"message_field_role: {role}\n    message_field_content: {content}"
    columns = f"field_messages: messages\n    {old_names if old else new_names}"
    one = made(convert("axolotl", **{"field_messages: messages": columns}))
    assert isinstance(one.data, tuple)
    assert one.data[1] == Conversations("data/chats.jsonl", messages="messages", style=style)


def test_a_warm_up_that_is_a_share_of_epochs_is_carried_as_a_share(convert: Any) -> None:
    axolotl = convert("axolotl", **{"num_epochs: 3": "num_epochs: 3\nwarmup_ratio: 0.03"})
    llama = convert("llama-factory", **{"max_steps: 100": "num_train_epochs: 3.0"})
    assert [made(one).train.warmup_ratio for one in (axolotl, llama)] == [0.03, 0.1]


def test_dora_is_carried_for_text_and_for_pictures(convert: Any) -> None:
    text = convert(
        "llama-factory",
        **{"lora_rank: 8": "lora_rank: 8\nuse_dora: true\nuse_rslora: true\nloraplus_lr_ratio: 16.0"},
    )
    one = made(text)
    assert (one.adapter.dora, one.adapter.rslora, one.train.lora_plus_ratio) == (True, True, 16.0)
    pictures = convert("onetrainer", **{'"epochs": 20': '"epochs": 20, "lora_decompose": true'})
    assert made(pictures).adapter.dora is True


def test_kohyas_lora_plus_is_in_its_network_arguments(convert: Any) -> None:
    draft = convert(
        "kohya", **{"network_alpha = 16": 'network_alpha = 16\nnetwork_args = ["loraplus_lr_ratio=4"]'}
    )
    assert made(draft).train.lora_plus_ratio == 4.0
    assert "network.network_args" not in left(draft)


@pytest.mark.parametrize(
    ("trainer", "said", "family"),
    [
        ("simpletuner", '"model_family": "z-image"', "z_image"),
        ("simpletuner", '"model_family": "z_image"', "z_image"),
        ("simpletuner", '"model_family": "qwen_image"', "qwen_image"),
        ("ai-toolkit", "arch: zimage", "z_image"),
        ("ai-toolkit", 'arch: "zimage:turbo"', "z_image"),
        ("ai-toolkit", "arch: qwen_image", "qwen_image"),
        ("onetrainer", '"model_type": "Z_IMAGE"', "z_image"),
        ("onetrainer", '"model_type": "QWEN"', "qwen_image"),
    ],
)
def test_a_trainer_s_own_name_of_a_family_is_ours(trainer: str, said: str, family: str, convert: Any) -> None:
    first = {
        "simpletuner": '"model_family": "sd1x"',
        "ai-toolkit": "is_flux: false",
        "onetrainer": '"model_type": "STABLE_DIFFUSION_15"',
    }
    draft = convert(trainer, **{first[trainer]: said})

    assert draft.settings["base.family"].value == family


def test_another_architecture_of_ai_toolkit_s_is_told(convert: Any) -> None:
    assert "model.arch" in left(convert("ai-toolkit", **{"is_flux: false": "arch: zimage_l2p"}))


def test_onetrainer_s_schedule_that_ends_in_pure_noise_is_carried(convert: Any) -> None:
    more = '"rescale_noise_scheduler_to_zero_terminal_snr": true, "batch_size": 4'
    assert made(convert("onetrainer", **{'"batch_size": 4': more})).base.zero_terminal_snr is True


@pytest.mark.parametrize(
    ("trainer", "after", "on", "off"),
    [
        ("kohya", "seed = 7", "seed = 7\ntorch_compile = true", "seed = 7\ntorch_compile = false"),
        ("ai-toolkit", "is_flux: false}", "compile: true}", "compile: false}"),
        (
            "onetrainer",
            '"batch_size": 4',
            '"batch_size": 4, "compile": true',
            '"batch_size": 4, "compile": false',
        ),
        ("simpletuner", '"lora_rank": 8', '"dynamo_backend": "inductor"', '"dynamo_backend": "no"'),
        ("axolotl", "lora_r: 32", "torch_compile: auto", "torch_compile: false"),
        ("llama-factory", "lora_rank: 8", "torch_compile: true", "torch_compile: false"),
    ],
)
def test_that_a_step_was_compiled_is_left_with_the_reason(
    trainer: str, after: str, on: str, off: str, convert: Any
) -> None:
    told = [what for what in left(convert(trainer, **{after: on})).values() if what == words.EAGER]
    assert told == [words.EAGER]
    assert words.EAGER not in left(convert(trainer, **{after: off})).values()
