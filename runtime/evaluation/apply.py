"""The recommended weight becomes the one that the WebUI offers, in every file that says it.

The plan's outputs are not hashed, so the run stays the same plan's: the LoRA is exported again from its checkpoint with
the weight in sidecar, manifest, preview and usage hint, and `reproduce` gives these bytes from then on.
"""

from __future__ import annotations

import attrs

from runtime import plan
from runtime import run as running
from runtime.evaluation import subject
from runtime.evaluation.subject import Subject
from runtime.export import write


def prefer(of: Subject, weight: float) -> None:
    """Export the chosen checkpoint again with this preferred weight. Raises LoracError."""
    changed = attrs.evolve(of.of, outputs=attrs.evolve(of.of.outputs, preferred_weight=weight))
    samples = changed.outputs.samples
    assert isinstance(samples, plan.Samples)
    subject.restore(of, of.manifest.run.steps)
    previews = subject.draw(of, samples, weight) if samples.prompts else []
    plan.write(changed, of.where.output / "plan.json")
    write.export(of.where.output, running.factors(of.trainee), changed, of.manifest.run, previews)
