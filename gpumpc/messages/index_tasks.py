"""The index programs that the dealer deals for, described in full."""

from typing import Annotated

import msgspec

from gpumpc.messages.codec import Count, Identifier, Record
from gpumpc.retrieval.programs import Metric


class Segment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Rows that one batch of the rows program added, by their slots there."""

    session: Identifier
    batch_index: Annotated[int, msgspec.Meta(ge=0)]
    slots: list[int]


class RowsTask(Record, frozen=True):
    """The program that adds rows to an index."""

    metric: Metric


class QueryTask(Record, frozen=True):
    """The program that answers queries to an index of these rows; with n_labels, rows vote."""

    metric: Metric
    n_queries: Count
    k: Count
    segments: list[Segment]
    n_labels: Annotated[int, msgspec.Meta(ge=0, le=1 << 16)] = 0


IndexTask = RowsTask | QueryTask
