"""The owners' signed statements of the weights that a server holds, kept beside the weights."""

import logging
from pathlib import Path

import msgspec

from gpumpc import messages as m
from gpumpc.errors import ConfigError
from gpumpc.offline.secret import read_private, write_private

log = logging.getLogger("gpumpc")


class WeightStatements:
    """A file for each plan and weight sharing.

    Args:
        folder: the server's state folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[Path, m.WeightStatement] = {}

    def _path(self, plan_id: str, weight_sharing_id: str) -> Path:
        return self._folder / f"{plan_id[:32]}.{weight_sharing_id}.statement"

    def add(self, plan_id: str, weight_sharing_id: str, statement: m.WeightStatement) -> None:
        """Keep a statement of weights that are installed next. Raises ConfigError."""
        path = self._path(plan_id, weight_sharing_id)
        # One of a process that was killed before it installed them is replaced.
        path.unlink(missing_ok=True)
        write_private(path, msgspec.json.encode(statement))

    def keep_only(self, plan_id: str, weight_sharing_id: str) -> None:
        """Delete the statements of weights that a plan had before."""
        kept = self._path(plan_id, weight_sharing_id)
        for path in self._folder.glob(f"{plan_id[:32]}.*.statement"):
            if path != kept:
                path.unlink()

    def find(self, plan_id: str, weight_sharing_id: str) -> m.WeightStatement | None:
        """The statement of a plan's weights; None where they have none that can be read."""
        path = self._path(plan_id, weight_sharing_id)
        if path not in self._known:
            if not path.exists():
                return None
            try:
                raw = read_private(path)
                self._known[path] = msgspec.json.decode(raw, type=m.WeightStatement)
            except (ConfigError, msgspec.DecodeError) as error:
                log.warning("the owner's statement of weights cannot be read: %s", error)
                return None
        return self._known[path]
