"""What the runs of `tests.validate.choice` say, as data and as a page."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import statistics
from collections.abc import Sequence
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from runtime.evaluation.figures import by_heart

METRIC = "style_distance_to_twemoji"
"""Part A's stated metric: less is nearer."""
OTHERS = {"pixel_distance_to_twemoji": 1, "twemoji_style": -1}
"""Its other measures, with the sign that makes less the better."""
PACKAGES = ("torch", "diffusers", "transformers", "peft")
MEMORISED = "memorised"
"""How `lorac eval`'s warning begins."""


@attrs.frozen(kw_only=True)
class Found:
    """A finished run. `losses`: held-out, by step; `truth`: each measure of each candidate, a number a concept."""

    pictures: int
    seed: int
    chosen: int
    losses: dict[int, float]
    truth: dict[int, dict[str, list[float]]]
    evaluation: dict[str, Any]
    advice: dict[str, Any]


def figures(runs: Sequence[Found], command: str) -> dict[str, Any]:
    """Everything that the page says, and what it rests on."""
    rows = [row(one) for one in runs]
    return {
        "command": command,
        "day": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "machine": f"{platform.machine()}, one thread, load average {os.getloadavg()[1]:.1f}",
        "metric": METRIC,
        "runs": rows,
        "sets": {
            str(count): together([one for one in rows if one["pictures"] == count])
            for count in sorted({one.pictures for one in runs})
        },
    }


def row(of: Found) -> dict[str, Any]:
    """One run: its candidates, what was chosen among them, and what would have been best."""
    steps = sorted(of.truth)
    losses = np.array([of.losses[step] for step in steps])
    table = {name: truth(of, name) for name in (METRIC, *OTHERS)}
    means = table[METRIC].mean(axis=1)
    chosen, last = steps.index(of.chosen), len(steps) - 1
    return {
        "pictures": of.pictures,
        "seed": of.seed,
        "chosen": of.chosen,
        "last": steps[last],
        "best": steps[int(means.argmin())],
        "held_out_loss": {step: round(of.losses[step], 5) for step in sorted(of.losses)},
        METRIC: {step: round(float(mean), 4) for step, mean in zip(steps, means, strict=True)},
        "regret": regret(table[METRIC], chosen),
        "regret_of_the_last": regret(table[METRIC], last),
        "rank_correlation": round(rank_correlation(losses, means), 3),
        "regret_by_other_measures": {name: regret(table[name], chosen)["mean"] for name in OTHERS},
        "copies": copies(of.evaluation),
        "warned": [said for said in of.evaluation["warnings"] if said.startswith(MEMORISED)],
        "advised": [f"{one['kind']}: {one['about']}" for one in of.advice["findings"]],
    }


def truth(of: Found, name: str) -> NDArray[np.float64]:
    """(candidates, concepts) of a measure, less being the better."""
    return np.array([of.truth[step][name] for step in sorted(of.truth)]) * OTHERS.get(name, 1)


def regret(values: NDArray[np.float64], chosen: int) -> dict[str, float]:
    """How much worse the chosen candidate is than the best: of (candidates, concepts), less being the better.

    `error` is the standard error of the paired differences over concepts. The best of noisy means looks better than it
    is, so `fair` takes the best by half of the concepts and holds the chosen one against it on the other half.
    """
    means = values.mean(axis=1)
    gaps = values[chosen] - values[int(means.argmin())]
    halves = [(values[:, 0::2], values[:, 1::2]), (values[:, 1::2], values[:, 0::2])]
    fair = [float((seen[chosen] - seen[int(picked.mean(axis=1).argmin())]).mean()) for picked, seen in halves]
    return {
        "mean": round(float(gaps.mean()), 4),
        "error": round(float(gaps.std(ddof=1) / np.sqrt(len(gaps))), 4),
        "fair": round(statistics.fmean(fair), 4),
    }


def rank_correlation(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Spearman's, of values without ties."""
    ranks = [np.argsort(np.argsort(values)) for values in (first, second)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def copies(evaluation: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Step -> how many pictures lie above the threshold, how many captions recite, and how near those come to their own
    pictures in the median, trained and held out."""
    found = {}
    for row in evaluation["rows"]:
        near = {
            kind: [one["nearness"] for one in row["recited"] if one["trained"] is kind]
            for kind in (True, False)
        }
        found[str(row["step"])] = {
            "prompts": f"{sum(one['is_copy'] for one in row['pictures'])} of {len(row['pictures'])}",
            "captions": f"{by_heart(near[True], near[False])} of {len(near[True])}",
            "median_nearness": round(statistics.median(near[True]), 3),
            "median_nearness_of_held_out": round(statistics.median(near[False]), 3),
        }
    return found


def together(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Runs on as many pictures, over their seeds."""
    by_step = np.array([list(one[METRIC].values()) for one in rows])
    return {
        "runs": len(rows),
        "chosen_is_best": sum(one["chosen"] == one["best"] for one in rows),
        "chosen_is_earlier_than_the_last": sum(one["chosen"] < one["last"] for one in rows),
        "warned": sum(bool(one["warned"]) for one in rows),
        "regret": spread([one["regret"]["mean"] for one in rows]),
        "fair_regret": spread([one["regret"]["fair"] for one in rows]),
        "regret_of_the_last": spread([one["regret_of_the_last"]["mean"] for one in rows]),
        "rank_correlation": spread([one["rank_correlation"] for one in rows]),
        "deviation_between_seeds": round(float(by_step.std(axis=0, ddof=1).mean()), 4)
        if len(rows) > 1
        else None,
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    return {
        "mean": round(statistics.fmean(values), 4),
        "least": round(min(values), 4),
        "most": round(max(values), 4),
    }


# --------------------------------------------------------------------------------------------------------- the page


def page(found: dict[str, Any]) -> str:
    """choice.md."""
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    lines = [
        "# The checkpoint that is chosen, and what is learned by heart",
        "",
        f"Made by `{found['command']}` on {found['day']} with",
        f"{versions};",
        f"{found['machine']}. The figures as data are in `choice.json`;",
        "`tests/validate/choice.py` says what was run. Each run is on so many Twemoji pictures, the same 12 held out.",
        "The metric is part A's style distance, drawn at weight 1 for 24 concepts that no run saw: less is nearer.",
        "",
        "## Over the seeds",
        "",
        "Regret: how much worse the chosen checkpoint is than the best of its run, by the metric. The best of noisy",
        "figures looks better than it is; the fair regret picks it by half of the concepts and measures on the others.",
        "",
        "| pictures | runs | chosen is the best | warned of memorising | regret | fair regret | regret of the last "
        "| deviation between seeds | rank correlation |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for count, one in found["sets"].items():
        cells = [
            count,
            str(one["runs"]),
            str(one["chosen_is_best"]),
            str(one["warned"]),
            *(_range(one[name]) for name in ("regret", "fair_regret", "regret_of_the_last")),
            "unknown" if one["deviation_between_seeds"] is None else f"{one['deviation_between_seeds']:.3f}",
            _range(one["rank_correlation"]),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "Rank correlation: Spearman's, of held-out loss and metric over a run's candidates.",
        "",
        "## Each run",
        "",
        "Copies: pictures by prompts that are above the threshold, and trained captions that give their own picture",
        "back, nearer than any held-out caption does.",
        "",
        "| pictures | seed | step: held-out loss / metric | chosen | best | regret ± error | copies | advice |",
        "| ---: | ---: | --- | ---: | ---: | ---: | --- | --- |",
    ]
    for one in found["runs"]:
        candidates = "; ".join(
            f"{step}: {one['held_out_loss'][step]:.4f} / {value:.2f}" for step, value in one[METRIC].items()
        )
        seen = ", ".join(
            f"step {step}: {said['prompts']}, {said['captions']}" for step, said in one["copies"].items()
        )
        cells = [
            f"{one['pictures']}",
            f"{one['seed']}",
            candidates,
            f"{one['chosen']}",
            f"{one['best']}",
            f"{one['regret']['mean']:.3f} ± {one['regret']['error']:.3f}",
            seen,
            ", ".join(one["advised"]) or "healthy",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _range(of: dict[str, float]) -> str:
    return f"{of['mean']:.3f} ({of['least']:.3f} to {of['most']:.3f})"
