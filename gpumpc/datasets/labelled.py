"""Labelled images with a split whose parts share no source."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class Count(NamedTuple):
    """How many images, and how many sources they come from."""

    n_train: int
    n_test: int
    n_train_sources: int
    n_test_sources: int


class LabelledImages(NamedTuple):
    """A benchmark.

    Attributes:
        images: (N, H, W, C) in [0, 1].
        labels: (N,) names of classes.
        sources: (N,) names of what an image was cut from: a person, a section, a dish. None is in
            train and in test.
        train: (N,) whether an image belongs to the gallery or training part.
    """

    images: npt.NDArray[np.float64]
    labels: npt.NDArray[np.str_]
    sources: npt.NDArray[np.str_]
    train: npt.NDArray[np.bool_]

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, sorted."""
        return tuple(str(name) for name in np.unique(self.labels))

    def part(self, *, train: bool) -> LabelledImages:
        """The gallery (train) or the queries."""
        kept = self.train == train
        return LabelledImages(
            self.images[kept], self.labels[kept], self.sources[kept], self.train[kept]
        )

    def counts(self) -> dict[str, Count]:
        """Images and sources of each class: print both beside any accuracy."""
        return {name: self._count(self.labels == name) for name in self.classes}

    def _count(self, chosen: npt.NDArray[np.bool_]) -> Count:
        parts = (chosen & self.train, chosen & ~self.train)
        counted = [(int(part.sum()), len(np.unique(self.sources[part]))) for part in parts]
        (n_train, s_train), (n_test, s_test) = counted
        return Count(n_train, n_test, s_train, s_test)
