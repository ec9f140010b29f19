"""Whether pictures are decoded in tiles (`runtime.tiles`): where a whole one does not fit the card beside all that
training keeps there. Blocks would else have to wait in the computer's memory all the time, for a few pictures' sake.
"""

from __future__ import annotations

import attrs

from lorac.estimate.cost import Costs, single
from lorac.estimate.phases import bare
from runtime import plan, tiles
from runtime.families import family


def outputs_for(outputs: plan.Outputs, program: plan.Program, costs: Costs, usable: int) -> plan.Outputs:
    """The outputs, their pictures in tiles if that is needed. It depends on nothing that the search may choose: so more
    memory never makes a plan slower."""
    samples = outputs.samples
    if not isinstance(samples, plan.Samples) or not samples.prompts:
        return outputs
    of = family(program.base.family)
    if max(samples.width, samples.height) <= tiles.SIDE or not hasattr(
        bare(program, [of.VAE], "fp32")[of.VAE], "use_tiling"
    ):
        return outputs
    if costs.exact(single(program)).phases["sample"] <= usable:
        return outputs
    return attrs.evolve(outputs, samples=attrs.evolve(samples, tiled=True))
