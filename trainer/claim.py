"""Who may write into a run directory: the one whose token stands in its owner file.

A node that crashed, or lost its network, may still run an old attempt when SLURM has started the next one elsewhere. So
the next one takes the owner file over, and whoever appends, saves or deletes looks into it first.
"""

import json
from pathlib import Path

from selection.config import Settings
from selection.errors import JobError


class Claim(Settings):
    """The right to write, as long as nobody has taken it over."""

    file: Path
    token: str

    def check(self) -> None:
        """Look whether it still holds.

        Raises:
            JobError: somebody else owns the run directory now.
        """
        owner = read_owner(self.file)
        if owner.get("token") != self.token:
            raise JobError(
                f"{self.file.parent}: belongs to {owner.get('name', 'nobody')} now; this attempt stops and writes "
                "nothing more"
            )


def read_owner(file: Path) -> dict[str, str]:
    """What an owner file says; nothing where there is none."""
    try:
        return json.loads(file.read_text())
    except FileNotFoundError:
        return {}
