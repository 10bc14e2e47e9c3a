"""The results of a study as a page of Markdown: what was done, then one table per budget."""

from collections.abc import Sequence

from launcher.compare import to_text
from launcher.studies.trials.config import StudyConfig
from launcher.studies.trials.plan import STEPS
from launcher.studies.trials.prices import Prices
from launcher.studies.trials.results import ArmSummary
from launcher.studies.trials.statistics import CONFIDENCE, Interval

_PAGE = """\
# {name}

{metric} on the {split} split, seeds {seeds} as far as they are finished, {at_once} trials at a time.
Mean and {confidence:.0%} interval over seeds (Student's t). Differences are to {reference} with all its steps,
paired by seed, `*` where the interval excludes 0, and not corrected for the number of arms.

Seconds are those of training and selection at the median prices of this study: {step_ms:.1f} ms a step, {start_s:.1f} s
to start the ranks, and for each refresh {refreshes}.
Measured seconds are the clock's, with every start of the ranks. Age: steps since the embeddings that a batch was
chosen from, on average.

{tables}
"""


def page(
    study: StudyConfig,
    prices: Prices,
    summaries: Sequence[ArmSummary],
) -> str:
    """The whole page."""
    budgets = list(dict.fromkeys(summary.budget for summary in summaries))
    tables = [
        f"## {_title(budget)}\n\n"
        + to_text(table([s for s in summaries if s.budget == budget], study.reference))
        for budget in budgets
    ]
    refreshes = [f"{cost:.1f} s ({arm})" for arm, cost in prices.refresh_s.items() if cost]
    return _PAGE.format(
        name=study.study_dir.name,
        metric=study.metric,
        split=study.split,
        reference=study.reference,
        seeds=", ".join(map(str, study.seeds)),
        at_once=study.trials_at_once,
        confidence=CONFIDENCE,
        step_ms=prices.step_s * 1e3,
        start_s=prices.start_s,
        refreshes=", ".join(refreshes) or "nothing",
        tables="\n\n".join(tables),
    )


def table(summaries: Sequence[ArmSummary], reference: str) -> list[list[str]]:
    """Rows of the arms at one budget, the best first."""
    heading = [
        "arm", "seeds", "final", "best round", f"minus {reference}", "rounds", "steps", "age", "seconds", "measured s",
        f"reaches {reference} in",
    ]  # fmt: skip
    ranked = sorted(summaries, key=lambda summary: -summary.final.mean)
    return [heading, *(_row(summary, reference) for summary in ranked)]


def _row(summary: ArmSummary, reference: str) -> list[str]:
    is_reference = summary.arm == reference
    return [
        summary.arm,
        str(summary.num_seeds),
        _spell(summary.final),
        _spell(summary.best),
        "" if is_reference or summary.difference is None else _spell_difference(summary.difference),
        str(summary.num_rounds),
        f"{summary.num_steps:,.0f}",
        "" if summary.age_steps is None else f"{summary.age_steps:,.0f}",
        f"{summary.seconds:,.0f}",
        f"{summary.measured_s:,.0f}",
        _spell_reach(summary),
    ]


def _title(budget: str) -> str:
    if budget == STEPS:
        return "Equal steps"
    return f"Equal seconds, {budget.removeprefix('seconds-')} of the reference's"


def _spell(interval: Interval) -> str:
    if interval.low is None or interval.high is None:
        return f"{interval.mean:.4f}"
    return f"{interval.mean:.4f} ± {interval.high - interval.mean:.4f}"


def _spell_difference(interval: Interval) -> str:
    text = f"{interval.mean:+.4f}"
    if interval.low is None or interval.high is None:
        return text
    star = " *" if interval.excludes(0) else ""
    return f"{text} [{interval.low:+.4f}, {interval.high:+.4f}]{star}"


def _spell_reach(summary: ArmSummary) -> str:
    if summary.reach is None:
        return f"{summary.num_reached} of {summary.num_compared} seeds"
    interval = summary.reach
    if interval.low is None or interval.high is None:
        return f"{interval.mean:.2f}"
    return f"{interval.mean:.2f} [{interval.low:.2f}, {interval.high:.2f}]"
