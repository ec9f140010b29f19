"""Whether a step's blocks are compiled: where they can be, and it pays back within the run, or as the spec says."""

from __future__ import annotations

import math

import attrs

from lorac import spec
from lorac.estimate.cost import Cost, Costs
from lorac.parts import spec_place
from lorac.resolve import Resolved
from runtime import compiler, plan
from runtime.errors import Problem, SpecError
from runtime.families import family
from runtime.human import clock

FIELD = "compiled blocks"


def as_pinned(resolved: Resolved) -> Resolved:
    """With its blocks compiled where the spec says so. Raises SpecError where they cannot be."""
    if resolved.experiment.fit.compile is not True:
        return resolved
    refuse(resolved, resolved.program)
    return attrs.evolve(resolved, program=compiled(resolved.program))


def refuse(resolved: Resolved, program: plan.Program) -> None:
    """Raise SpecError where the spec would have blocks compiled that cannot be."""
    reason = why_eager(program)
    if reason is not None:
        what, hint = reason
        where = spec_place(resolved.experiment.fit, "compile")
        raise SpecError(
            Problem(where, f"fit.compile cannot be True: {what}", f"{hint}, or leave compile out")
        )


def why_eager(program: plan.Program) -> tuple[str, str] | None:
    """Why its blocks cannot be compiled here, and what would change that; None where they can."""
    reason = plan.why_eager(program)
    if reason is not None:
        return reason
    kind = program.base.architecture["model"].get("model_type")
    known = family(program.base.family).ONE_GRAPH
    if program.base.remote_code or kind not in known:
        return f"{kind} was not tried", f"take one of {', '.join(sorted(known))}"
    drops = [key for key, value in program.base.architecture["model"].items() if "drop" in key and value]
    if drops:
        return f"the base's config has {drops[0]}", "set it to 0 there"
    return None if compiler.version() else (compiler.MISSING, compiler.INSTALL)


def compiled(program: plan.Program) -> plan.Program:
    """The program with its blocks compiled by the compiler that is here."""
    versions = {**program.versions, compiler.NAME: compiler.version()}
    return attrs.evolve(program, compute=attrs.evolve(program.compute, compiled=True), versions=versions)


def decide(
    resolved: Resolved, program: plan.Program, costs: Costs
) -> tuple[plan.Program, tuple[plan.Decision, ...]]:
    """The chosen point with its blocks compiled or not, and why; of pictures' plans, which never are, not a word."""
    wanted, steps = resolved.experiment.fit.compile, program.train.steps
    if wanted is True:
        refuse(resolved, program)
    if not isinstance(wanted, spec.Auto):
        return program, (decision(program, costs.exact(program), "as the spec says"),)
    if program.data.kind != "text":
        return program, ()
    reason = why_eager(program)
    if reason is not None:
        return program, (decision(program, costs.exact(program), reason[0]),)
    before, other = costs.exact(program), compiled(program)
    after = costs.exact(other)
    if not after.compile_seconds:
        why = "what it saves here is not known: lorac calibrate"
    elif after.peak_bytes > resolved.card.usable:
        why = "its memory does not fit"
    elif (after_steps := pays_back(before, after)) is None:
        why = "it would save nothing"
    elif after_steps > steps:
        why = f"it would pay back after {after_steps:,} steps, the run has {steps:,}"
    else:
        saved = (before.seconds_per_step - after.seconds_per_step) * steps - after.compile_seconds
        why = f"it pays back after {after_steps:,} of {steps:,} steps: {clock(saved)} saved"
        return other, (decision(other, after, why),)
    return program, (decision(program, before, why),)


def pays_back(eager: Cost, compiled: Cost) -> int | None:
    """After how many steps the time that compiling takes is saved; None where it never is."""
    saved = eager.seconds_per_step - compiled.seconds_per_step
    return math.ceil(compiled.compile_seconds / saved) if saved > 0 else None


def decision(program: plan.Program, cost: Cost, why: str) -> plan.Decision:
    """A row of the plan's table."""
    value = f"{len(cost.blocks)} blocks" if program.compute.compiled else "none"
    return plan.Decision(field=FIELD, value=value, reason=why)
