"""`coterie study KIND`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from launcher.commands.arguments import add_workers, not_negative, positive

if TYPE_CHECKING:
    from launcher.studies.trials.config import StudyConfig


_MOST_SEEDS = 1000


def add(commands: argparse._SubParsersAction) -> None:
    """Make the parser, with one sub-command per kind of study."""
    study = commands.add_parser(
        "study", help="experiments: what the method promises, and what it keeps"
    )
    kinds = study.add_subparsers(required=True, metavar="KIND")
    _add_theory(kinds)
    _add_synthetic(kinds)
    _add_selectors(kinds)
    _add_ablation(kinds)


def _add_theory(kinds: argparse._SubParsersAction) -> None:
    parser = kinds.add_parser(
        "theory", help="the paper's statements, each checked against its value; minutes, one core"
    )
    _add_output(parser)
    parser.set_defaults(command=_theory)


def _add_synthetic(kinds: argparse._SubParsersAction) -> None:
    parser = kinds.add_parser(
        "synthetic", help="the paper's experiment with free embeddings, every way to choose batches"
    )
    parser.add_argument(
        "--seeds", type=positive, default=10, metavar="RUNS", help="starts (default: 10)"
    )
    parser.add_argument("--steps", type=positive, default=500, help="default: 500")
    _add_output(parser)
    add_workers(parser)
    parser.set_defaults(command=_synthetic)


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out", type=Path, default=Path("runs/studies"), metavar="DIR",
        help="folder of table and pictures (default: runs/studies)",
    )  # fmt: skip
    parser.add_argument("--seed", type=not_negative, default=0)


def _add_selectors(kinds: argparse._SubParsersAction) -> None:
    parser = kinds.add_parser(
        "selectors", help="strategies side by side, at equal steps and at equal seconds"
    )
    _add_trials(parser, "a study file, such as configs/studies/code_search.yaml, or that of a run")
    parser.add_argument(
        "--strategies",
        type=_words,
        metavar="A,B",
        help="these arms of the file, or strategies that it has no arm for; all are compared with the first",
    )
    parser.set_defaults(command=_selectors)


def _add_ablation(kinds: argparse._SubParsersAction) -> None:
    parser = kinds.add_parser(
        "ablation", help="one setting of selection at a time, on the validation split"
    )
    _add_trials(parser, "a study file with axes, such as configs/studies/ablation.yaml")
    parser.set_defaults(command=_ablation)


def _add_trials(parser: argparse.ArgumentParser, config_help: str) -> None:
    parser.add_argument("config", type=Path, help=config_help)
    parser.add_argument("overrides", nargs="*", metavar="a.b=value", help="settings of all trials")
    parser.add_argument(
        "--seeds", type=_seeds, metavar="0..4", help="or 0,1,7 (default: the file's)"
    )
    parser.add_argument(
        "--shares", type=_shares, metavar="0.6,1",
        help="of the reference's seconds, to train all others for; none: at equal steps alone (default: the file's)",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the study")
    parser.add_argument("--at-once", type=positive, help="trials side by side")
    parser.add_argument(
        "--most", type=positive, help="trials to do now; the same command goes on with the others"
    )
    parser.add_argument("--dry-run", action="store_true", help="list the trials and do none")


def _theory(args: argparse.Namespace) -> None:
    from launcher.studies.claims import claims_table
    from launcher.studies.theory.study import page_path, run_theory
    from selection.errors import JobError
    from selection.progress import TerminalProgress

    _make_folder(args.out)
    with TerminalProgress() as progress:
        claims = run_theory(args.out, args.seed, progress)
    print(claims_table(claims))
    if failed := [claim for claim in claims if not claim.passed]:
        raise JobError(f"{len(failed)} of {len(claims)} claims fail; see {page_path(args.out)}")


def _synthetic(args: argparse.Namespace) -> None:
    from launcher.studies.synthetic.study import page_path, run_synthetic
    from selection.errors import JobError
    from selection.progress import TerminalProgress

    _make_folder(args.out)
    with TerminalProgress() as progress:
        ranked = run_synthetic(args.out, args.seeds, args.steps, args.seed, args.workers, progress)
    print(page_path(args.out).read_text())
    clear = [order for order in ranked if order.is_clear]
    if wrong := [order for order in clear if not order.holds]:
        raise JobError(
            f"{len(wrong)} of {len(clear)} clear orders are not found, such as {wrong[0].better} before "
            f"{wrong[0].worse} after {wrong[0].step} steps of {wrong[0].setting}; few seeds tell little"
        )


def _make_folder(path: Path) -> None:
    """The folder of the results, before minutes of work for them."""
    from launcher.run_dir import make_folder

    make_folder(path, "--out")


def _selectors(args: argparse.Namespace) -> None:
    study = _load_study(args)
    _run_trials(study.with_strategies(args.strategies) if args.strategies else study, args)


def _ablation(args: argparse.Namespace) -> None:
    from selection.errors import ConfigError

    study = _load_study(args)
    if not study.axes:
        raise ConfigError(
            f"{args.config}: has no axes, so there is nothing to vary; see configs/studies/ablation.yaml"
        )
    if study.split != "validation":
        raise ConfigError(
            f"{args.config}: split is {study.split}, but settings are chosen on validation; set it"
        )
    _run_trials(study, args)


def _load_study(args: argparse.Namespace) -> "StudyConfig":
    from launcher.studies.trials.config import load_study

    options = {
        "seeds": args.seeds,
        "shares": args.shares,
        "study_dir": args.out,
        "trials_at_once": args.at_once,
    }
    given = {field: value for field, value in options.items() if value is not None}
    return load_study(args.config, args.overrides, given)


def _run_trials(study: "StudyConfig", args: argparse.Namespace) -> None:
    from launcher.stopping import stoppable
    from launcher.studies.trials.study import TABLE, plan_study, run_study
    from selection.progress import TerminalProgress

    _make_folder(study.study_dir)
    with TerminalProgress() as progress:
        if args.dry_run:
            print("\n".join(plan_study(study, progress)))
            return
        with stoppable():
            run_study(study, progress, args.most)
    print((study.study_dir / TABLE).read_text())


def _words(text: str) -> list[str]:
    return text.split(",")


def _shares(text: str) -> list[float]:
    return [] if text == "none" else list(map(float, text.split(",")))


def _seeds(text: str) -> list[int]:
    """`0..4`, both ends included, or `0,1,7`."""
    first, dots, last = text.partition("..")
    if dots and int(last) - int(first) >= _MOST_SEEDS:
        raise argparse.ArgumentTypeError(f"{text} are more than {_MOST_SEEDS} seeds")
    seeds = list(range(int(first), int(last) + 1)) if dots else list(map(int, text.split(",")))
    if not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise argparse.ArgumentTypeError(f"{text} names no seed, one twice, or one below 0")
    return seeds
