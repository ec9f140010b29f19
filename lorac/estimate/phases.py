"""The phases of our own run, each as a step for the tracer, in the order in which `runtime.run` goes through them.

| phase | what happens, beside what is there already |
| --- | --- |
| load | every component comes through main memory, cast to its dtype, to the device |
| cache | all components are there, the denoiser too; one picture and one caption are encoded |
| train | the very function that the runtime runs, at its fullest |
| evaluate | where something is held out: the loss of a batch of it, by the runtime's own function |
| save | the adapter and the optimizer's state are looked at and written |
| sample | encoders that waited come to the device; two captions, one call of the denoiser, one picture decoded |

Fake tensors are the card's unless `on_host` says otherwise; for a plan on the CPU there is only one memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext

import attrs
import torch
from torch import Tensor, nn

from lorac.estimate import cuda
from lorac.estimate.bases import bare as bare
from lorac.estimate.bases import components as components
from lorac.estimate.bases import default_dtype as default_dtype
from lorac.estimate.bases import encoders_of, encodes_text, frozen
from lorac.estimate.encoded import GRID, tensor_bytes
from lorac.estimate.record import Trace
from lorac.estimate.trace import label, materialize, on_host, phase, trace
from runtime import average, encoders, evaluate, plan, tiles
from runtime import step as train_step
from runtime.adapters import adapted, words
from runtime.data.entries import BUDGET
from runtime.dtypes import DTYPES
from runtime.families import family
from runtime.families import objective as objectives
from runtime.families.protocol import Family, Modules
from runtime.optimizers import build_optimizer
from runtime.optimizers.paging import state_tensors

SHARD = 10 * 10**9
"""Bytes of one file of a component in a folder, at most: `max_shard_size` of diffusers' `save_pretrained`; of
transformers' it is half of that."""
HERE = torch.device("cpu")
"""Where fake tensors are, whatever the plan's device."""


# ---------------------------------------------------------------------------------------------------------- training


def training(program: plan.Program, capability: tuple[int, int], whole: bool = False) -> Trace:
    """The step at its fullest: the optimizer has its state, and where the plan accumulates, gradients are held.

    That is one micro-batch as every later one finds things, at a quarter of the tracing. `whole` traces two
    optimizer steps from the start instead, each of two micro-batches where the plan accumulates: the same peak.
    """
    of = family(program.base.family)
    trained = plan.trained(program.adapter)
    modules = _adapted(of, program)
    stay = encoders_of(program, [name for name in frozen(program) if name not in program.compute.offloaded])
    micro, accumulates = program.train.micro_batch, program.train.accumulation > 1

    def make() -> Callable[[], None]:
        materialize(*modules.values(), *stay.values())
        trainee = _trainee(of, modules, program)
        tokens = any(component in of.TEXT_ENCODERS for component in trained)
        batch = of.example(program.base.architecture, micro, plan.largest(program.data), tokens)
        if isinstance(program.data, plan.Images):
            batch |= objectives.extras(batch["latent_mean"], program)
        label("inputs", batch.values())
        if not whole:
            _prefill(trainee, accumulates)
        count = 2 if whole and accumulates else 1

        def step() -> None:
            train_step.gradients(trainee, [(batch, range(micro))] * count, micro * count)
            train_step.update(trainee, 1.0)

        return step

    return _traced(make, program, capability, 2 if whole else 1)


def _adapted(of: Family, program: plan.Program) -> Modules:
    """What is trained, on the meta device, with the adapter on: made outside the tracer, as peft moves what it makes
    to the base's device."""
    trained = plan.trained(program.adapter)
    names = [of.BACKBONE, *(component for component in trained if component != of.BACKBONE)]
    modules = bare(program, names, program.compute.dtype)
    train_step.pack(of, modules, program.compute)
    words.put_on(modules, program.adapter)
    train_step.attach(modules, program)
    return modules


def _trainee(of: Family, modules: Modules, program: plan.Program) -> train_step.Trainee:
    """The step's parts, with the names of those that the tracer cannot know."""
    if program.compute.device == "cuda":  # weights that are to be split come to the card in parts
        blocks = of.blocks(modules)
        split = [one for name in program.compute.sharded for one in blocks[name].parameters()]
        on_host(one for one in split if not one.requires_grad)
    trainee = train_step.trainee(of, modules, program, HERE)
    if trainee.stream is not None:
        on_host(trainee.stream.host_tensors())
        trainee.stream.fetched = lambda tensors: label("base weights", tensors)
    # A head whose weight the loss takes is never called as a module, by which the tracer knows a model's weights.
    frozen_ = (t for module in modules.values() for t in _tensors(module) if not t.requires_grad)
    label("base weights", frozen_)
    aside = [one.base for one in trainee.whole.values()]
    label("base weights", aside)
    on_host(aside if program.compute.device == "cuda" else [])
    if program.compute.dtype != "fp32":
        label("master weights", trainee.masters.values())
    if trainee.ema is not None:
        label("averaged weights", trainee.ema.shadow.values())
    if program.compute.paged_optimizer:
        trainee.optimizer.register_step_post_hook(lambda optimizer, *_: on_host(_kept(optimizer)))
    return trainee


def _prefill(trainee: train_step.Trainee, accumulates: bool) -> None:
    """Give the optimizer its state, and leave gradients behind as a first micro-batch would."""
    for master in trainee.masters.values():
        master.grad = torch.zeros_like(master)
    trainee.optimizer.step()
    if not accumulates:
        trainee.optimizer.zero_grad(set_to_none=True)


def _traced(
    make: Callable[[], Callable[[], None]], program: plan.Program, capability: tuple[int, int], steps: int = 1
) -> Trace:
    """The tracer, as the runtime sets torch up."""
    workspace, device = cuda.RUNTIME_WORKSPACE, program.compute.device
    with _one_of_all(program):
        return trace(make, steps=steps, device=device, capability=capability, workspace=workspace)


def _one_of_all(program: plan.Program) -> AbstractContextManager[None]:
    """One process of those that the program's blocks are split among."""
    if not program.compute.sharded:
        return nullcontext()
    from lorac.estimate.processes import first_of  # what a step on one card goes without

    return first_of(program.train.processes)


# ------------------------------------------------------------------------------------------------- loading, encoding


def preparing(program: plan.Program, capability: tuple[int, int]) -> Trace:
    """Phases "load" and "cache": all components come one after the other, then a picture and a caption are encoded.

    A file's own dtype is in no plan: its tensors are taken to be of the other width, two bytes or four, than what
    they are cast to. Of a single file they come one by one, of a folder shard by shard; where a component is quantised,
    that is done after the cast, layer by layer, and takes no more.
    """
    of = family(program.base.family)
    trained = {of.BACKBONE, *plan.trained(program.adapter)}
    dtypes: dict[str, plan.Dtype] = {
        name: program.compute.dtype if name in trained else encoders.dtype(of, name)
        for name in components(of)
    }
    modules = {name: bare(program, [name], dtype)[name] for name, dtype in dtypes.items()}
    sizes = {name: [tensor.numel() for tensor in _tensors(module)] for name, module in modules.items()}
    for name in trained:
        train_step.pack(of, {name: modules[name]}, program.compute)
    has_card, quantised = program.compute.device == "cuda", program.compute.quantization != "none"

    def make() -> Callable[[], None]:
        streamed: list[Tensor] = []  # in main memory until the adapter is on
        for name in frozen(program):
            _stream(of, name, modules[name], program)

        def load(name: str) -> None:
            read = _read(sizes[name], dtypes[name], program.base.layout)
            if not has_card and not (quantised and name in trained):
                materialize(modules[name])
                return
            cast = torch.empty(sum(sizes[name]), dtype=DTYPES[dtypes[name]])
            on_host([read, cast] if has_card else [])
            del read
            if not has_card:
                del cast
                materialize(modules[name])
            elif plan.streams(program.compute, name):
                streamed.append(cast)
            else:
                materialize(modules[name])

        def step() -> None:
            with phase("load"):
                for name, module in modules.items():
                    load(name)
                    label("base weights", (t for t in _tensors(module) if t.device.type != "meta"))
            with phase("cache"), torch.no_grad():
                if isinstance(program.data, plan.Images):
                    _encode(of, modules, program, program.data)

        return step

    return _traced(make, program, capability)


def _read(sizes: list[int], dtype: plan.Dtype, layout: plan.Layout) -> Tensor:
    """What lies beside a component in its dtype while it is read, `sizes` being its tensors' numbers of elements.

    Of a single file that is a tensor, of a folder a shard of `SHARD` bytes at most. Of a GGUF file's tensor it is its
    rows in float32 (`gguf.quants`, `_apply_over_grouped_rows`), and these joined or, then, copied
    (`load_gguf_checkpoint` of transformers).
    """
    if layout == "gguf":
        return torch.empty(2 * max(sizes), dtype=torch.float32)
    in_file = torch.float16 if dtype == "fp32" else torch.float32
    most = max(sizes) if layout == "single_file" else min(sum(sizes), SHARD // in_file.itemsize)
    return torch.empty(most, dtype=in_file)


def _stream(of: Family, component: str, module: nn.Module, program: plan.Program) -> None:
    """Lay an encoder out as the runtime does where its blocks come to the card one after the other: its weights are in
    main memory, pinned, from the beginning."""
    if not encoders.streams(of, component, program.compute):
        return
    materialize(module)
    stream = encoders.stream(of, component, module, HERE)
    on_host(stream.host_tensors())
    stream.fetched = lambda tensors: label("base weights", tensors)


def _encode(of: Family, modules: Modules, program: plan.Program, data: plan.Images) -> None:
    """One picture of the largest bucket, and one caption where captions are encoded, as `runtime.data.cache` does."""
    pixels = torch.empty(1, *plan.pixels(plan.largest(data)))
    label("inputs", pixels)
    latents = of.encode_picture(modules, pixels)
    for tensor in latents.values():
        tensor.isfinite().all()
    del pixels, latents
    if encodes_text(of, program):
        example = of.example(program.base.architecture, 1, (GRID, GRID), True)
        of.encode_text(modules, {name: t for name, t in example.items() if not t.is_floating_point()})


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()


# ------------------------------------------------------------------------------------------------- saving, sampling


def pausing(program: plan.Program, outputs: plan.Outputs, capability: tuple[int, int]) -> Trace:
    """Phases "save" and, where the plan has prompts, "sample": the state between two steps, without gradients.

    Nothing is recomputed without a backward, so neither the micro-batch nor the recomputed blocks matter here.
    """
    of, samples = family(program.base.family), outputs.samples
    program = attrs.evolve(program, compute=attrs.evolve(program.compute, checkpointed=()))
    modules, others = _adapted(of, program), encoders_of(program, frozen(program))
    stay = [module for name, module in others.items() if name not in program.compute.offloaded]
    size = state_bytes(program, modules)

    def make() -> Callable[[], None]:
        materialize(*modules.values(), *stay)
        trainee = _trainee(of, modules, program)
        state = _state(trainee, size)
        for name in frozen(program) if samples.prompts else ():
            _stream(of, name, others[name], program)

        def step() -> None:
            with phase("save"), torch.no_grad(), average.shown(trainee):
                _save(trainee, state, DTYPES[outputs.dtype])
            if samples.prompts:
                with phase("sample"), torch.no_grad(), average.shown(trainee):
                    materialize(*others.values())
                    if isinstance(samples, plan.Samples):
                        _draw(of, {**modules, **others}, program, samples)
                    else:
                        _answer(of, modules, program, samples)

        return step

    return _traced(make, program, capability)


def _draw(of: Family, modules: Modules, program: plan.Program, samples: plan.Samples) -> None:
    """One picture as `Family.sample` draws it, every further step of its scheduler taking the same again.

    Both prompts are encoded; the denoiser is called as the loss calls it, on two latents with guidance (classifier-free
    guidance, Ho and Salimans 2022), on one without; the latents are decoded.
    """
    for module in modules.values():
        module.eval()
    architecture, data = program.base.architecture, plan.pictures(program.data)
    # A clip is drawn as large as it is trained.
    size = (samples.width, samples.height) if data.kind == "images" else plan.largest(data)
    if of.TEXT_ENCODERS:
        tokens = of.example(architecture, 2, size, True)
        of.encode_text(modules, {name: t for name, t in tokens.items() if not t.is_floating_point()})
    batch = of.example(architecture, 2 if of.CFG and samples.guidance > 1 else 1, size, False)
    label("inputs", batch.values())
    of.loss(modules, batch, program.base, plan.Objective())
    with tiles.decoding(of, modules, samples):
        pixels = of.decode(modules, batch["latent_mean"][:1])
    (pixels * 0.5 + 0.5).clamp(0, 1)


def _answer(of: Family, modules: Modules, program: plan.Program, samples: plan.Answers) -> None:
    """A prompt of half a sequence and its answer, read at once with the keys and values kept: no less than word by
    word, where all but the last token's are there already."""
    model = modules[of.BACKBONE].eval()
    length = max(plan.largest(program.data)[0] // 2, 1) + samples.max_tokens
    tokens = torch.zeros(1, length, dtype=torch.long)
    label("inputs", tokens)
    model(input_ids=tokens, use_cache=True, logits_to_keep=1)


def _state(of: train_step.Trainee, size: int) -> Tensor:
    """The optimizer's state in one piece: to fill it in tensor by tensor takes longer than all the rest here."""
    state = torch.empty(size, dtype=torch.uint8)
    label("optimizer state", state)
    if of.program.compute.paged_optimizer:
        on_host(state)
    return state


def state_bytes(program: plan.Program, modules: Modules) -> int:
    """What the plan's optimizer keeps of the adapter on `modules`: it steps over one tensor of each shape."""
    kept = dict[torch.Size, int]()
    shapes = Counter(
        parameter.shape
        for component in plan.trained(program.adapter)
        for parameter in adapted.parameters(modules[component]).values()
    )

    def make() -> Callable[[], None]:
        alone = {str(shape): nn.Parameter(torch.empty(shape)) for shape in shapes}
        optimizer = build_optimizer(program.train.optimizer, alone, dict.fromkeys(alone, 1.0))

        def step() -> None:
            for parameter in alone.values():
                parameter.grad = torch.empty_like(parameter)
            optimizer.step()
            for parameter, _, tensor in state_tensors(optimizer):
                kept[parameter.shape] = kept.get(parameter.shape, 0) + tensor_bytes([tensor])

        return step

    trace(make, steps=1, device="cpu")
    return sum(count * kept[shape] for shape, count in shapes.items())


def _kept(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [tensor for _, _, tensor in state_tensors(optimizer)]


def _save(of: train_step.Trainee, state: Tensor, dtype: torch.dtype) -> None:
    """What a checkpoint's writing makes: the check of a tensor, and the LoRA's copies in main memory.

    The copies are the factors in float32 (`runtime.run.factors`; on a CPU they are the masters themselves), and the
    file's tensors in its dtype. They go through one tensor after the other; here they are one piece each.
    """
    masters = list(of.masters.values())
    largest = max(masters, key=lambda master: master.numel()).detach()
    (~largest.isfinite()).sum()
    count = sum(master.numel() for master in masters)
    has_card = of.program.compute.device == "cuda"
    copies = torch.empty(count if has_card else 0)
    tensors = torch.empty(count, dtype=dtype)
    on_host([copies, tensors] if has_card else [])
    assert state is not None  # held for as long as the state lasts


# --------------------------------------------------------------------------------------------------------- evaluating


def evaluating(program: plan.Program, capability: tuple[int, int]) -> Trace:
    """Phase "evaluate": one micro-batch of what is held out, at its longest, beside the optimizer's state.

    Nothing is recomputed without a backward, so the recomputed blocks do not matter here.
    """
    of = family(program.base.family)
    program = attrs.evolve(program, compute=attrs.evolve(program.compute, checkpointed=()))
    modules, micro = _adapted(of, program), program.train.micro_batch
    waits = program.compute.offloaded
    stay = bare(program, [name for name in frozen(program) if name not in waits], "fp32")
    size = state_bytes(program, modules)

    def make() -> Callable[[], None]:
        materialize(*modules.values(), *stay.values())
        trainee = _trainee(of, modules, program)
        state = _state(trainee, size)
        tokens = any(component in of.TEXT_ENCODERS for component in plan.trained(program.adapter))
        batch = of.example(program.base.architecture, micro, plan.largest(program.data), tokens)
        if isinstance(program.data, plan.Images):
            batch |= objectives.extras(batch["latent_mean"], program)
        label("inputs", batch.values())

        def step() -> None:
            with phase("evaluate"):
                evaluate.held_out(trainee, [(batch, [(row, 1) for row in range(micro)])])
            assert state is not None  # held for as long as the step lasts

        return step

    return _traced(make, program, capability)


# ---------------------------------------------------------------------------------------------- beside what is traced


def waiting(
    program: plan.Program, outputs: plan.Outputs | None, encoded_data: int
) -> dict[str, dict[str, int]]:
    """Bytes by what waits in main memory, for each phase: encoded data, and encoders that are wanted for samples."""
    encoded = {"encoded data": min(BUDGET, encoded_data)}
    away = {}
    if outputs is not None and outputs.samples.prompts:
        of = family(program.base.family)
        # One that streams is traced with the phases, where its weights stay.
        names = [
            name
            for name in frozen(program)
            if name in program.compute.offloaded and not encoders.streams(of, name, program.compute)
        ]
        modules = encoders_of(program, names).values()
        away = {"offloaded encoders": sum(tensor_bytes(_tensors(module)) for module in modules)}
    beside = {
        "load": {},
        "cache": encoded,
        "train": encoded | away,
        "evaluate": encoded | away,
        "save": encoded | away,
        "sample": encoded,
    }
    return {phase: {name: size for name, size in sizes.items() if size} for phase, sizes in beside.items()}
