"""What would be imported in place of Coterie: Ray's workers look first into the folder where the command was typed."""

import importlib.util
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

from selection.errors import ConfigError

_PACKAGES = ("launcher", "trainer", "selection")


def check_working_folder() -> None:
    """Refuse a folder whose own `trainer.py` or `trainer/` workers would take for ours.

    Raises:
        ConfigError: there is one.
    """
    for name in _PACKAGES:
        found = PathFinder.find_spec(name, [str(Path.cwd())])
        if found and _places(found) != _places(importlib.util.find_spec(name)):
            raise ConfigError(
                f"working directory: {Path.cwd()} has {name!r}, which Ray's workers would import in place of "
                "Coterie's; call the command from another folder, or rename it"
            )


def _places(spec: ModuleSpec | None) -> list[Path]:
    """The folders of a package, or the file of a module."""
    if spec is None:
        return []
    places = spec.submodule_search_locations or [spec.origin or ""]
    return sorted(Path(place).resolve() for place in places)
