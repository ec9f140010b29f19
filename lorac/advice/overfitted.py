"""Does the LoRA repeat its training data? What was held out, copies, how often each picture was seen."""

from __future__ import annotations

from functools import partial

from lorac import figures
from lorac.advice.evidence import Evidence
from lorac.advice.looked import Looked, Moves, shorter, slower
from lorac.advice.thresholds import EXPOSURES
from runtime import plan
from runtime.evaluation import recommend
from runtime.evaluation.figures import DOUBT, EXPECTED
from runtime.evaluation.results import Row

looked = partial(Looked, kind="overfitted")


def held_out(of: Evidence) -> Looked:
    about, found = "held-out loss", figures.bounded(of.run)
    if len(found) < 2:
        return looked(about=about, unknown="it was measured less than twice")
    least, last = min(found, key=lambda step: (found[step].mean, step)), max(found)
    return looked(
        about=about,
        figure=f"least {found[least].mean:.4f} after step {least}, {found[last].mean:.4f} after step {last}",
        is_wrong=_rises(found, least),
        finding="the held-out loss rises from its least",
        source="a rise above the 95 % interval of the least; where that is not known, two higher ones after it",
        moves=_back_to(of, least),
    )


def copies(of: Evidence) -> Looked:
    """Pictures that are near to a training picture, by `lorac eval`, against what chance makes of it."""
    about, row = "copies of training pictures", _recommended(of)
    if row is None or row.copies is None:
        why = of.unknown.get("evaluation", "not measured: lorac eval does")
        return looked(about=about, unknown=why)
    count = sum(one.is_copy for one in row.pictures)
    by_chance = f"{count} of {len(row.pictures)} pictures, by chance {EXPECTED:.0%} are"
    return looked(
        about=about,
        figure="; ".join(recommend.signs(row)) or by_chance,
        is_wrong=recommend.copies(row),
        finding="pictures repeat the training pictures",
        source=f"a test to {DOUBT:.0%}: fewer could be an accident",
        moves=shorter(of.run.plan, of.run.plan.program.train.steps // 2),
    )


def exposures(of: Evidence) -> Looked:
    about, program = "times that each picture is seen", of.run.plan.program
    data, train = program.data, program.train
    if not isinstance(data, plan.Images) or not data.items:
        return looked(about=about, unknown="for text, the held-out loss tells")
    pictures = len(data.items)
    seen = of.run.step * train.effective_batch / pictures
    tells = len(figures.bounded(of.run)) > 1
    return looked(
        about=about,
        figure=f"{pictures} pictures × {seen:.0f}, many above {EXPOSURES.value:.0f}"
        + ("; the held-out loss says more" if tells else ""),
        is_wrong=seen > EXPOSURES.value and not tells,
        finding="each picture is seen more often than in any known recipe",
        source=EXPOSURES.reason,
        todo="or add pictures",
        moves=shorter(of.run.plan, int(EXPOSURES.value * pictures / train.effective_batch)),
    )


def _rises(found: dict[int, figures.Loss], least: int) -> bool:
    bound, after = found[least], [found[step] for step in sorted(found) if step > least]
    if not after:
        return False
    if bound.high > bound.mean:
        return after[-1].mean > bound.high
    return len(after) > 1


def _back_to(of: Evidence, step: int) -> Moves:
    """As many steps as were best; a lower rate where the base itself was."""
    return shorter(of.run.plan, step) or slower(of.run.plan)


def _recommended(of: Evidence) -> Row | None:
    """What was measured of what is exported, at the weight that is recommended."""
    if of.evaluation is None:
        return None
    chosen = (of.evaluation.chosen.step, of.evaluation.chosen.weight)
    return next((row for row in of.evaluation.rows if (row.step, row.weight) == chosen), None)


RULES = (held_out, copies, exposures)
