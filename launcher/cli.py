"""The command `coterie`. Heavy imports happen inside the commands, so that `--help` answers at once."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from selection.errors import ArtifactError, ConfigError, JobError

EXIT_FAILED, EXIT_WRONG_INPUT, EXIT_INTERRUPTED = 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0 fine, 1 failed, 2 wrong input, 130 interrupted.
    """
    args = build_parser().parse_args(arguments)
    try:
        args.command(args)
    except (ConfigError, ArtifactError) as error:
        print(f"coterie: {error}", file=sys.stderr)
        return EXIT_WRONG_INPUT
    except JobError as error:
        print(f"coterie: {error}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        print(
            "coterie: interrupted; the same command goes on from the last complete state",
            file=sys.stderr,
        )
        return EXIT_INTERRUPTED
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Commands and their arguments."""
    parser = argparse.ArgumentParser(
        prog="coterie",
        description="Contrastive training on batches that are chosen, not drawn.",
        epilog="coterie COMMAND --help tells more about each command.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser(
        "run", help="select, train, judge, round by round; goes on where it stopped"
    )
    run.add_argument("config", type=Path, help="a YAML file, such as configs/quickstart.yaml")
    run.add_argument(
        "overrides", nargs="*", metavar="a.b=value", help="settings that replace the file's"
    )
    run.set_defaults(command=_run)

    compare = commands.add_parser("compare", help="one table of several runs")
    compare.add_argument("run_dirs", nargs="+", type=Path, metavar="RUN_DIR")
    compare.set_defaults(command=_compare)

    search = commands.add_parser("search", help="search the held-out pairs of a run")
    search.add_argument("run_dir", type=Path, metavar="RUN_DIR")
    search.add_argument("queries", nargs="+", metavar="QUERY")
    search.add_argument("--top", type=_positive, default=3, help="results per query (default: 3)")
    search.set_defaults(command=_search)

    _add_select(commands)

    dataset = commands.add_parser("dataset", help="write a data set as WebDataset shards")
    kinds = dataset.add_subparsers(required=True, metavar="KIND")
    code = kinds.add_parser(
        "code-search", help="docstrings and bodies of the installed Python packages"
    )
    code.add_argument("folder", type=Path)
    code.add_argument("--limit", type=_positive, help="most training pairs (default: all)")
    _add_workers(code)
    code.set_defaults(command=_dataset_code_search)

    index = commands.add_parser("index", help="number the pairs of tar shards")
    index.add_argument("shards", help="a glob, or brace ranges as in 'train-{000000..000012}.tar'")
    index.add_argument("folder", type=Path)
    _add_workers(index)
    index.set_defaults(command=_index)
    return parser


def _add_select(commands: argparse._SubParsersAction) -> None:
    select = commands.add_parser("select", help="batches for any embeddings and any trainer")
    select.add_argument("u_file", type=Path, metavar="U.npy", help="floats [N, d], unit rows")
    select.add_argument(
        "v_file", type=Path, metavar="V.npy", nargs="?", help="default: U.npy, single-view data"
    )
    select.add_argument("--batch-size", type=_positive, required=True)
    select.add_argument("--out", type=Path, required=True, help="folder of the schedule")
    select.add_argument("--strategy", default="spectral")
    select.add_argument("--temperature", type=float, default=0.07)
    select.add_argument("--seed", type=_not_negative, default=0)
    select.add_argument(
        "--set",
        dest="settings",
        nargs="+",
        default=[],
        metavar="a.b=value",
        help="such as graph.num_neighbors=32",
    )
    select.set_defaults(command=_select)


def _add_workers(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--workers",
        type=_positive,
        default=os.cpu_count() or 1,
        help="processes (default: all cores)",
    )


def _positive(text: str) -> int:
    return _at_least(1, text)


def _not_negative(text: str) -> int:
    return _at_least(0, text)


def _at_least(least: int, text: str) -> int:
    value = int(text)
    if value < least:
        raise argparse.ArgumentTypeError(f"{value} is not at least {least}")
    return value


def _run(args: argparse.Namespace) -> None:
    from launcher.config import load_config

    config = load_config(args.config, args.overrides)
    from launcher.execute import execute

    execute(config)


def _compare(args: argparse.Namespace) -> None:
    from launcher.compare import comparison, summarize, to_text

    print(to_text(comparison([summarize(root) for root in args.run_dirs])))


def _search(args: argparse.Namespace) -> None:
    from launcher.search import describe, search

    for query, hits in zip(args.queries, search(args.run_dir, args.queries, args.top), strict=True):
        print(describe(query, hits), end="\n\n")


def _select(args: argparse.Namespace) -> None:
    from launcher.console import describe_schedule
    from launcher.select import SelectRequest, select_files
    from selection.progress import TerminalProgress

    names = SelectRequest.__dataclass_fields__
    request = SelectRequest(**{name: getattr(args, name) for name in names})
    with TerminalProgress() as progress:
        schedule = select_files(request, progress)
    print(describe_schedule(f"{args.out}:", schedule.manifest))


def _dataset_code_search(args: argparse.Namespace) -> None:
    from selection.progress import TerminalProgress
    from trainer.datasets.code_search import write_code_search

    with TerminalProgress() as progress:
        manifest = write_code_search(args.folder, args.limit, args.workers, progress)
    print(
        f"{args.folder}: {manifest['train']['num_pairs']:,} training and "
        f"{manifest['heldout']['num_pairs']:,} held-out pairs"
    )


def _index(args: argparse.Namespace) -> None:
    from selection.progress import TerminalProgress
    from selection.shards import build_index, expand_shards

    with TerminalProgress() as progress:
        index = build_index(expand_shards(args.shards), args.folder, progress, args.workers)
    print(f"{args.folder}: {len(index):,} pairs in {len(index.shard_paths):,} shards")


if __name__ == "__main__":
    sys.exit(main())
