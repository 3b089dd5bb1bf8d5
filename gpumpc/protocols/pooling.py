"""Maximum and sum over windows of shared values."""

import dataclasses
import math
from collections.abc import Callable, Iterator

from gpumpc.cost import Cost
from gpumpc.offline.deal_batch import Dealing
from gpumpc.protocols.relu import Positive, positive_part
from gpumpc.protocols.step import Clear, Shape, Step
from gpumpc.ring.backend import Backend, Words
from gpumpc.session import Session
from gpumpc.shares import Additive


@dataclasses.dataclass(frozen=True)
class Window:
    """One axis of a pooling window.

    Padding repeats the edge entry instead of adding a "minus infinity": that entry lies in the same
    window, so the maximum is unchanged, and every compared value is a real one.
    """

    axis: int
    size: int
    stride: int
    before: int
    after: int

    def indices(self, length: int) -> list[list[int]]:
        """For each offset in the window, the entry every output reads along the axis."""
        count = (length + self.before + self.after - self.size) // self.stride + 1
        starts = [self.stride * i - self.before for i in range(count)]
        return [
            [min(max(start + offset, 0), length - 1) for start in starts]
            for offset in range(self.size)
        ]


@dataclasses.dataclass(frozen=True)
class MaxPool(Step):
    """Maximum over a window, one axis after the other, each as a knock-out of max(a, b) = b + max(a
    - b, 0).

    **Computes** the maximum over each window of x (B, H, W, C), modulo 2^bits, for |v| <
    2^(bits-2): a difference needs one bit more than a value.
    **Hides** all values and which of them won, as `Positive` does; the differences are opened, not
    the values. **Cost** `Positive` on all pairs of a knock-out round at once; ceil(log2 w) rounds
    of it an axis. **Error** none.
    **Source** this project; docs/protocols.md section 8.
    """

    bits: int
    windows: tuple[Window, ...]

    def _levels(self) -> Iterator[tuple[str, Positive]]:
        """Name and core of every knock-out round."""
        shape = self.shape
        for window in self.windows:
            shape = _replaced(shape, window.axis, len(window.indices(shape[window.axis])[0]))
            remaining = window.size
            while remaining > 1:
                n = remaining // 2 * math.prod(shape)
                yield f"axis{window.axis}.of{remaining}", Positive(n, self.bits, self.bits)
                remaining -= remaining // 2

    @property
    def cost(self) -> Cost:
        return sum((core.cost for _, core in self._levels()), Cost())

    def deal(self, dealing: Dealing, *masks: object) -> None:
        for name, core in self._levels():
            dealing.at(f"{self.name}/{name}")
            core.deal(dealing)

    def run(self, session: Session, x: Additive) -> Additive:
        levels = self._levels()
        words = x.at_bits(session.backend, self.bits).words

        def positive(difference: Words) -> Words:
            name, core = next(levels)
            session.at(f"{self.name}/{name}")
            return core.run(session, difference.reshape(-1)).reshape(difference.shape)

        for window in self.windows:
            words = self._knock_out(session.backend, words, window, positive)
        words = session.backend.reduce(words, self.bits)
        return dataclasses.replace(x, words=words, bits=self.bits)

    def plain(self, clear: Clear, x: Words) -> Words:
        for window in self.windows:
            x = self._knock_out(clear.backend, x, window, lambda d: positive_part(clear.backend, d))
        return x

    @staticmethod
    def _knock_out(
        backend: Backend, words: Words, window: Window, positive: Callable[[Words], Words]
    ) -> Words:
        indices = window.indices(words.shape[window.axis])
        entries = [backend.take(words, index, window.axis) for index in indices]
        while len(entries) > 1:
            pairs = len(entries) // 2
            left = backend.concat(entries[0 : 2 * pairs : 2], 0)
            right = backend.concat(entries[1 : 2 * pairs : 2], 0)
            best = right + positive(left - right)
            size = len(best) // pairs
            entries = [best[i * size : (i + 1) * size] for i in range(pairs)] + entries[2 * pairs :]
        return entries[0]


def _replaced(shape: Shape, axis: int, size: int) -> Shape:
    return (*shape[:axis], size, *shape[axis + 1 :])


@dataclasses.dataclass(frozen=True)
class SumPool(Step):
    """Average pooling as an integer sum; the division is in the scale.

    **Computes** the sum over each window of x (B, H, W, C): `frac` grows by log2 of the window's
    area where that is a power of two, else `divisor` by the area.
    **Hides** everything: nothing is sent. **Cost** none. **Error** none. **Source** folklore.
    """

    window: tuple[int, int]
    stride: tuple[int, int]

    def run(self, session: Session, x: Additive) -> Additive:
        sums = session.backend.window_sum(x.words, self.window, self.stride)
        words = session.backend.reduce(sums, x.bits)
        frac, divisor = averaged(x.frac, x.divisor, self.window)
        return dataclasses.replace(x, words=words, frac=frac, divisor=divisor)

    def plain(self, clear: Clear, x: Words) -> Words:
        return clear.backend.window_sum(x, self.window, self.stride)


def averaged(frac: int, divisor: int, window: tuple[int, int]) -> tuple[int, int]:
    """The (frac, divisor) of a mean that is a sum in the ring."""
    area = window[0] * window[1]
    if area & (area - 1) == 0:
        return frac + area.bit_length() - 1, divisor
    return frac, divisor * area
