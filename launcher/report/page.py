"""The report as one HTML file."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import yaml

from launcher.record import Record, distinct_names, read_record
from launcher.report import sentences, tables
from launcher.report.batches import gather_examples
from launcher.report.sections import make_sections
from launcher.run_dir import make_folder
from selection.artifacts import atomic_file
from selection.errors import ConfigError

_TEMPLATES = Path(__file__).parent


def write_report(roots: Sequence[Path], path: Path) -> None:
    """Write the report of runs.

    Args:
        roots: folders of runs, finished or under way.
        path: the HTML file.

    Raises:
        ConfigError: one of them is no run, or is there twice, or `path` is a folder or cannot be in one.
        ArtifactError: an artifact of a run is damaged.
    """
    if path.is_dir():
        raise ConfigError(f"--out: {path} is a folder; give the name of a file in it")
    resolved = [root.resolve() for root in roots]
    for root in resolved:
        if resolved.count(root) > 1:
            raise ConfigError(f"{root}: is there twice; name each run once")
    make_folder(path.parent, "--out")
    page = render([read_record(root) for root in resolved])
    with atomic_file(path, "w") as file:
        file.write(page)


def render(records: Sequence[Record]) -> str:
    """The report of runs as HTML."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"our_svg": Markup, "yaml": _spell_configuration}
    names = distinct_names([record.dir.root for record in records])
    records = [replace(record, name=name) for record, name in zip(records, names, strict=True)]
    return environment.get_template("page.html.j2").render(
        records=records,
        tables=tables,
        sentences=sentences,
        sections=make_sections(records),
        galleries=[(record, gather_examples(record)) for record in records],
    )


def _spell_configuration(record: Record) -> str:
    settings = record.config.model_dump(mode="json")
    return yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
