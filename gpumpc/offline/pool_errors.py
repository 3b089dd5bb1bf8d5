"""The errors of both pools."""

from pathlib import Path

from gpumpc.errors import BadFrame, CorrelationsMissing, LeftoverCorrelations, MaskReused

_SAME_PROGRAM = "run the same plan and version of gpumpc at the dealer and at this server"


def sent_twice(batch_index: int) -> BadFrame:
    """The error for a second writer of a batch."""
    what = f"corrections of batch {batch_index} came twice"
    return BadFrame(what, "they are here", "see the dealer's log")


def taken_twice(batch_index: int) -> MaskReused:
    """The error for a second reader of a batch."""
    what = f"batch {batch_index} was taken twice"
    return MaskReused(what, "its corrections are in use", "take another batch")


def wrong_size(batch_index: int, n_announced: int, n_received: int) -> BadFrame:
    """The error for more or fewer bytes than announced."""
    why = f"{n_announced} bytes were announced and {n_received} came"
    return BadFrame(f"the corrections of batch {batch_index} were refused", why, _SAME_PROGRAM)


def damaged(batch_index: int, path: Path) -> CorrelationsMissing:
    """The error for a stored batch whose checksum does not match."""
    what = f"the corrections of batch {batch_index} in {path} were changed or cut on the disk"
    hint = "ask again: this batch is given up and the dealer deals another; check the disk"
    return CorrelationsMissing(what, "their checksum does not match", hint)


def too_few(
    batch_index: int, why: str, kind: type[CorrelationsMissing] = CorrelationsMissing
) -> CorrelationsMissing:
    """The error for a step that needs more bytes than the batch has."""
    return kind(f"batch {batch_index} has too few corrections", why, _SAME_PROGRAM)


def left_over(batch_index: int, n_bytes: int) -> LeftoverCorrelations:
    """The error for a batch that was not read to its end."""
    what = f"{n_bytes} bytes of the corrections of batch {batch_index} were not read"
    why = "the dealer and this server walked different programs"
    return LeftoverCorrelations(what, why, _SAME_PROGRAM)
