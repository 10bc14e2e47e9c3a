"""What a run ran on: the versions of Python, of Coterie and of the packages it needs, and the machine."""

import os
import platform
import re
from importlib.metadata import PackageNotFoundError, requires, version

_DISTRIBUTION = "coterie"
_TOOLS = 'extra == "dev"'  # those packages decide no result


def versions() -> dict[str, str]:
    """Name and version of everything that may decide a result, as far as it is installed."""
    names = [_DISTRIBUTION]
    names += [_name(text) for text in requires(_DISTRIBUTION) or [] if _TOOLS not in text]
    found = {name: number for name in names if (number := installed_version(name))}
    machine = f"{platform.machine()}, {os.cpu_count()} CPUs"
    system = {"system": platform.platform(), "machine": machine}
    return {"python": platform.python_version(), **found, **system}


def _name(requirement: str) -> str:
    """The package that a requirement such as `torch>=2.9` or `ray[train]>=2; extra == "x"` is about."""
    return re.split(r"[^\w.-]", requirement, maxsplit=1)[0]


def installed_version(package: str) -> str | None:
    """The version of a package; None where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
