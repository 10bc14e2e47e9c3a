"""What people see of work that happens elsewhere: files of JSON lines, followed and drawn on this terminal."""

import json
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from selection.progress import TerminalProgress

_POLL_S = 0.2
_SIGNALS = {
    "captured_affinity": "affinity captured {captured_affinity:.1%} (random {random_captured_affinity:.1%})",
    "knn_recall": "neighbour recall {knn_recall:.3f}",
    "neighbors_in_region": "{num_regions:,} regions with {neighbors_in_region:.1%} of the neighbours",
    "num_isolated": "isolated {num_isolated:,}, components {num_components:,}",
    "eigengap": "eigengap {eigengap:.3f}",
    "changed_pairs": "batch changed for {changed_pairs:.1%} of the pairs "
    "(mates kept {kept_mates:.1%}, random {random_kept_mates:.1%})",
}
"""How signals of a schedule are spelled, by the field of its manifest that they need."""


def say(text: str) -> None:
    """Print one line, above the progress bar where there is a terminal; a log would keep every bar drawn anew."""
    if sys.stderr.isatty():
        tqdm.write(text)
    else:
        print(text + "\n", end="", flush=True)  # in one piece: threads may speak at the same time


@contextmanager
def following(path: Path, handle: Callable[[dict[str, Any]], None]) -> Iterator[None]:
    """While the body runs, call `handle` for each JSON line that is appended to `path`, in a thread."""
    stop = threading.Event()
    start = path.stat().st_size if path.exists() else 0
    thread = threading.Thread(target=_follow, args=(path, start, handle, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _follow(path: Path, position: int, handle: Callable, stop: threading.Event) -> None:
    """Read whole lines from `position` on; once more after `stop` is set, so that none is missed."""
    last_look = False
    while not last_look:
        last_look = stop.wait(_POLL_S)
        if not path.exists():
            continue
        if (
            path.stat().st_size < position
        ):  # the trainer cut lines beyond the checkpoint it resumed from
            position = path.stat().st_size
        with path.open("rb") as file:
            file.seek(position)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        position += len(whole)
        for line in whole.splitlines():
            handle(json.loads(line))


@contextmanager
def showing_stages(path: Path, progress: TerminalProgress) -> Iterator[None]:
    """Draw the stages that a `FileProgress` writes to `path`."""

    def handle(event: dict[str, Any]) -> None:
        progress(event["stage"], event["done"], event["total"], event["unit"])

    with following(path, handle):
        yield
    progress.close()


@contextmanager
def showing_training(path: Path, progress: TerminalProgress) -> Iterator[None]:
    """Draw a bar of training steps and one line per logging step."""

    def handle(line: dict[str, Any]) -> None:
        say(describe_step(line))
        progress("train", line["step"], line["total_steps"], "steps")

    with following(path, handle):
        yield
    progress.close()


def describe_step(line: dict[str, Any]) -> str:
    """One console line for one line of metrics."""
    return (
        f"round {line['round']}  step {line['step']:>6}/{line['total_steps']}"
        f"  loss {line['train/loss']:.4f}  temperature {line['train/temperature']:.4f}"
        f"  lr {line['train/lr']:.2e}  {line['perf/samples_per_s']:,.0f} pairs/s"
        f"  waited {line['perf/data_wait_s']:.2f} s for data"
    )


def describe_schedule(name: str, manifest: Mapping[str, Any]) -> str:
    """Console lines for a schedule: its batches, what its graph and the round before say of them, and its alarms.

    Args:
        name: what the lines begin with, such as `round 3`.
        manifest: of the schedule; a signal that it does not hold is left out.
    """
    signals = (text.format_map(manifest) for field, text in _SIGNALS.items() if field in manifest)
    lines = [_spell_batches(manifest), "; ".join(signals)]
    alarms = (f"warning: {alarm}" for alarm in manifest.get("alarms", []))
    return "\n".join([*(f"{name}  {line}" for line in lines if line), *alarms])


def _spell_batches(manifest: Mapping[str, Any]) -> str:
    text = "{num_batches:,} batches of {batch_size}, {num_leftover:,} left over, by {strategy}"
    if "batch_loss" in manifest:
        text += "; batch loss {batch_loss:.3f} ({batch_loss_p5:.3f} to {batch_loss_p95:.3f})"
        text += ", random {random_batch_loss:.3f}"
    text = text.format_map(manifest)
    if manifest.get("random_batch_loss"):
        text += f" ({manifest['batch_loss'] / manifest['random_batch_loss']:.2f}x)"
    stages = (f"{stage.removesuffix('_s')} {s:.1f} s" for stage, s in manifest["seconds"].items())
    return f"{text}  [{', '.join(stages)}]" if manifest["seconds"] else text
