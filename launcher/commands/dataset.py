"""`coterie dataset KIND`."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from launcher.commands.arguments import add_workers, not_negative, positive, share

_PARTS = ("train", "validation", "heldout", "known", "corrupted")


def add(commands: argparse._SubParsersAction) -> None:
    """Make the parser, with one sub-command per kind of data set."""
    dataset = commands.add_parser("dataset", help="write a data set as WebDataset shards")
    kinds = dataset.add_subparsers(required=True, metavar="KIND")
    _add_code_search(kinds)
    _add_image_text(kinds)
    _add_cifar100(kinds)
    _add_cifar100_c(kinds)
    _add_tiny_imagenet(kinds)


def _add_code_search(kinds: argparse._SubParsersAction) -> None:
    parser = kinds.add_parser(
        "code-search", help="docstrings and bodies of the installed Python packages"
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--limit", type=positive, help="most training pairs (default: all)")
    parser.add_argument(
        "--roots",
        type=Path,
        nargs="+",
        metavar="DIR",
        help="folders that hold packages (default: the standard library and what is installed)",
    )
    add_workers(parser)
    parser.set_defaults(command=_code_search)


def _code_search(args: argparse.Namespace) -> None:
    from trainer.datasets.code_search import write_code_search

    _write(args, write_code_search, args.limit, args.roots)


def _add_image_text(kinds: argparse._SubParsersAction) -> None:
    parser = kinds.add_parser(
        "image-text", help="generated pictures and captions, with known false negatives"
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pairs", type=positive, default=10_000, help="of the training part")
    parser.add_argument(
        "--classes", type=positive, default=1_000, help="families of scenes that may be confused"
    )
    parser.add_argument(
        "--confusable",
        type=share,
        default=0.5,
        help="share of scenes made from another one by changing an attribute (default: 0.5)",
    )
    parser.add_argument(
        "--false-negatives",
        type=share,
        default=0.1,
        help="share of training pairs that mean the same as another one (default: 0.1)",
    )
    parser.add_argument("--seed", type=not_negative, default=0)
    add_workers(parser)
    parser.set_defaults(command=_image_text)


def _image_text(args: argparse.Namespace) -> None:
    from trainer.datasets.image_text import ImageTextRequest, write_image_text

    request = ImageTextRequest(
        args.pairs, args.classes, args.confusable, args.false_negatives, args.seed
    )
    _write(args, write_image_text, request)


def _add_cifar100(kinds: argparse._SubParsersAction) -> None:
    parser = kinds.add_parser("cifar100", help="CIFAR-100 from its binary archive")
    _add_source(parser, "cifar-100-binary.tar.gz")
    parser.set_defaults(command=_cifar100)


def _cifar100(args: argparse.Namespace) -> None:
    from trainer.datasets.cifar100 import write_cifar100

    _write(args, write_cifar100, args.source)


def _add_cifar100_c(kinds: argparse._SubParsersAction) -> None:
    parser = kinds.add_parser("cifar100-c", help="one severity of CIFAR-100-C")
    _add_source(parser, "CIFAR-100-C.tar, or the folder that it unpacks to")
    parser.add_argument("--severity", type=int, choices=range(1, 6), default=5)
    parser.set_defaults(command=_cifar100_c)


def _cifar100_c(args: argparse.Namespace) -> None:
    from trainer.datasets.cifar100_c import write_cifar100_c

    _write(args, write_cifar100_c, args.source, args.severity)


def _add_tiny_imagenet(kinds: argparse._SubParsersAction) -> None:
    parser = kinds.add_parser("tiny-imagenet", help="Tiny ImageNet from its archive")
    _add_source(parser, "tiny-imagenet-200.zip")
    parser.set_defaults(command=_tiny_imagenet)


def _tiny_imagenet(args: argparse.Namespace) -> None:
    from trainer.datasets.tiny_imagenet import write_tiny_imagenet

    _write(args, write_tiny_imagenet, args.source)


def _add_source(parser: argparse.ArgumentParser, what: str) -> None:
    """Where a data set comes from and goes to."""
    parser.add_argument("folder", type=Path)
    parser.add_argument("--source", type=Path, required=True, metavar="FILE", help=what)
    add_workers(parser)


def _write(args: argparse.Namespace, write: Callable[..., dict[str, Any]], *what: Any) -> None:
    """Write a data set of `what` under a progress bar, and say how many pairs each part has."""
    from selection.progress import TerminalProgress

    with TerminalProgress() as progress:
        manifest = write(args.folder, *what, args.workers, progress)
    sizes = [f"{manifest[part]['num_pairs']:,} {part}" for part in _PARTS if part in manifest]
    print(f"{args.folder}: {', '.join(sizes)} pairs")
