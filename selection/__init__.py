"""Selection: which pairs share a batch. Knows nothing of training, imports nothing of ours.

What other trainers need can be imported from here. It is looked up when it is first asked for, so that
`import selection.config` stays free of numpy, numba and faiss.
"""

import importlib

TYPE_CHECKING = False  # what typing.TYPE_CHECKING is, without the time that importing typing takes
if TYPE_CHECKING:
    from selection.api import select_batches
    from selection.choose import Selection
    from selection.config import GraphConfig, HardnessConfig, SelectionConfig
    from selection.errors import ArtifactError, ConfigError
    from selection.progress import TerminalProgress
    from selection.sampler import ScheduleBatchSampler
    from selection.schedule import Schedule, open_schedule, write_schedule

__all__ = [
    "ArtifactError",
    "ConfigError",
    "GraphConfig",
    "HardnessConfig",
    "Schedule",
    "ScheduleBatchSampler",
    "Selection",
    "SelectionConfig",
    "TerminalProgress",
    "open_schedule",
    "select_batches",
    "write_schedule",
]

_HOMES = {
    "api": ["select_batches"],
    "config": ["GraphConfig", "HardnessConfig", "SelectionConfig"],
    "errors": ["ArtifactError", "ConfigError"],
    "progress": ["TerminalProgress"],
    "sampler": ["ScheduleBatchSampler"],
    "schedule": ["Schedule", "open_schedule", "write_schedule"],
    "choose": ["Selection"],
}
"""Names by the module that defines them; a test compares them with `__all__`."""


def __getattr__(name: str) -> object:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"selection.{module}"), name)
    raise AttributeError(f"module 'selection' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
