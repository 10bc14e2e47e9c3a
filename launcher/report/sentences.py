"""The words of a report: what one sees in its figures, a sentence each."""

from collections.abc import Sequence

import numpy as np

from launcher.record import SELECTION_STAGES, Record
from launcher.spelling import spell_seconds


def describe_run(record: Record) -> str:
    """What it is a run of, and how far it is."""
    config = record.config
    pairs = f", {record.manifests[0]['num_pairs']:,} pairs" if record.manifests else ""
    seen = f"; last written {record.last_time:%Y-%m-%d %H:%M} UTC" if record.last_time else ""
    return (
        f"{record.name}: {record.strategy} batches of {config.train.batch_size}{pairs}, seed {config.seed}; "
        f"{state(record)}{seen}"
    )


def state(record: Record) -> str:
    """How far a run is."""
    if record.is_finished:
        return f"finished, {record.config.rounds} rounds"
    return f"{len(record.rounds)} of {record.config.rounds} rounds finished"


def spell_alarms(records: Sequence[Record]) -> list[str]:
    """Every alarm, with run and round."""
    return [
        f"{record.name}, round {number}: {text}"
        for record in records
        for number, text in record.alarms
    ]


def describe_learning(records: Sequence[Record]) -> list[str]:
    """What the curves of learning come to, a sentence each; others are set beside the first run that was judged."""
    first = next((record for record in records if record.rounds), None)
    said = [
        _describe_end(record, first)
        if first and record.rounds
        else f"{record.name} has not finished a round yet, so its retrieval has not been judged."
        for record in records
    ]
    if len({record.strategy for record in records}) > 1:
        said.append("Training losses say how hard batches are, not how well a run does.")
    return said


def _describe_end(record: Record, first: Record) -> str:
    last = record.rounds[-1]
    mrr, first_mrr = last["u_to_v/mrr"], first.rounds[-1]["u_to_v/mrr"]
    beside = "" if record is first else f" ({mrr - first_mrr:+.4f} to {first.name})"
    (seconds,) = record.learning_seconds_at(np.array([last["time"]]))
    return (
        f"{record.name} reaches an MRR of {mrr:.4f}{beside} after {last['step']:,} steps and "
        f"{spell_seconds(seconds)} of training and selection."
    )


def describe_schedules(records: Sequence[Record]) -> list[str]:
    """What the chosen batches come to, a sentence each."""
    said = []
    for record in records:
        if record.hardness is None:
            said.append(f"{record.name} has had random batches only.")
            continue
        loss, random_loss = record.hardness
        said.append(
            f"The batches of {record.name} have a mean loss of {loss:.3f}; random ones of the same embeddings have "
            f"{random_loss:.3f}."
        )
    return said


def describe_seconds(records: Sequence[Record]) -> list[str]:
    """What the bars come to, a sentence each."""
    said = []
    for record in records:
        if total := sum(record.seconds.values()):
            train, chosen = record.seconds.get("train", 0.0) / total, record.selection_s / total
            beside = (
                ", which is counted although training went on beside it"
                if record.config.selection.overlaps
                else ""
            )
            said.append(
                f"{record.name} took {spell_seconds(total)}: {train:.0%} training, {chosen:.0%} selection "
                f"({' and '.join(SELECTION_STAGES)}){beside}."
            )
    return said
