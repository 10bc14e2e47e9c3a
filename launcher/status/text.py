"""A run's standing in words: some lines for one run, a table for several, JSON for programs."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from launcher.compare import to_text
from launcher.record import distinct_names
from launcher.spelling import spell_seconds
from launcher.status.reading import Stage
from launcher.status.standing import Standing

NOTHING = "-"


def to_lines(standing: Standing) -> str:
    """One run, a fact in each line; what is not known is left out."""
    facts = {
        "state": _with(standing.state, standing.why),
        "round": _spell_round(standing),
        "step": _spell_step(standing),
        "stage": spell_stage(standing.stage) if standing.stage else "",
        "time left": _spell_left(standing),
        "retrieval": _spell_retrieval(standing),
        "last error": _spell_error(standing),
        "owner": _spell_owner(standing),
        "jobs": ", ".join(_spell_job(job) for job in standing.jobs),
        "logs": ", ".join(map(str, standing.logs)),
    }
    lines = [f"{name:<11} {text}" for name, text in facts.items() if text]
    return "\n".join([str(standing.run_dir), *lines])


def to_table(standings: Sequence[Standing]) -> str:
    """Several runs, one in a row; their errors below."""
    heading = ["run", "state", "round", "step", "pairs/s", "stage", "time left", "MRR", "job"]
    names = distinct_names([standing.run_dir for standing in standings])
    named = list(zip(names, standings, strict=True))
    rows = [[name, *_row(standing)] for name, standing in named]
    errors = [f"{name}: {_spell_error(each)}" for name, each in named if each.error]
    return "\n".join([to_text([heading, *rows]), *errors])


def to_json(standings: Sequence[Standing]) -> str:
    """All fields of several runs."""
    return json.dumps([asdict(standing) for standing in standings], indent=2, default=str)


def spell_stage(stage: Stage) -> str:
    """`select: cluster, 300 of 1,200 pairs`."""
    text = stage.name
    if stage.part:
        text += f": {stage.part}"
    if stage.total is not None:
        text += f", {stage.done:,} of {stage.total:,} {stage.unit}"
    return f"{text}; beside it {spell_stage(stage.beside)}" if stage.beside else text


def _name_stage(stage: Stage) -> str:
    name = stage.part or stage.name
    return f"{name} + {_name_stage(stage.beside)}" if stage.beside else name


def _row(standing: Standing) -> list[str]:
    mrr = standing.retrieval and standing.retrieval.get("u_to_v/mrr")
    rounds = (standing.num_finished_rounds, standing.num_rounds)
    return [
        standing.state,
        NOTHING if standing.num_rounds is None else "{} of {}".format(*rounds),
        f"{standing.step:,} of {_count(standing.total_steps)}",
        f"{standing.pairs_per_s:,.0f}" if standing.pairs_per_s else NOTHING,
        _name_stage(standing.stage) if standing.stage else NOTHING,
        spell_seconds(standing.eta_s) if standing.eta_s is not None else NOTHING,
        f"{mrr:.4f}" if mrr is not None else NOTHING,
        ", ".join(str(job.job_id) for job in standing.jobs) or NOTHING,
    ]


def _spell_round(standing: Standing) -> str:
    if standing.num_rounds is None:
        return ""
    text = f"{standing.num_finished_rounds} of {standing.num_rounds} finished"
    return text if standing.round is None else f"{standing.round}; {text}"


def _spell_step(standing: Standing) -> str:
    if standing.total_steps is None:
        return ""
    text = f"{standing.step:,} of {standing.total_steps:,}"
    if standing.steps_per_s:
        text += f"; {standing.steps_per_s:,.2f} steps/s, {standing.pairs_per_s:,.0f} pairs/s"
    return text


def _spell_left(standing: Standing) -> str:
    return f"about {spell_seconds(standing.eta_s)}" if standing.eta_s is not None else ""


def _spell_retrieval(standing: Standing) -> str:
    found: dict[str, Any] | None = standing.retrieval
    if not found:
        return ""
    return (
        f"MRR {found['u_to_v/mrr']:.4f}, recall@10 {found['u_to_v/recall_at_10']:.4f} "
        f"after round {found['round']}, step {found['step']:,}"
    )


def _spell_error(standing: Standing) -> str:
    if not standing.error:
        return ""
    attempt, text = standing.error
    return f"attempt {attempt}: {text}" if attempt else text


def _spell_owner(standing: Standing) -> str:
    owner = standing.owner
    if not owner:
        return ""
    state = "alive" if owner.is_alive else "gone"
    return f"attempt {standing.attempt}: {owner.name}; {state}, heard of {owner.heard_s:.0f} s ago"


def _spell_job(job: Any) -> str:
    where = f" on {job.nodes}" if job.nodes else ""
    return _with(
        f"{job.job_id} {job.state or 'of which SLURM knows nothing here'}{where}", job.reason
    )


def _with(text: str, remark: str) -> str:
    return f"{text} ({remark})" if remark else text


def _count(value: int | None) -> str:
    return NOTHING if value is None else f"{value:,}"
