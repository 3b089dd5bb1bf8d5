"""The two programs of an index, which all parties walk: one adds rows, one answers queries.

Feature shares come at the bits and scale of the plan that made them. Both programs first cut them
down to `VALUE_BITS` (truncate, then lift): rows and queries are quantised alike, and a distance
fits its ring. For cosines, both are then scaled to length one (`normalise`), and compared by an
inner product.
"""

import dataclasses
from typing import Literal

from gpumpc.errors import PlanError
from gpumpc.params import Params
from gpumpc.program.program import Program, Value, WeightSpec
from gpumpc.protocols import linear
from gpumpc.protocols.ranking import distances
from gpumpc.protocols.ranking.shuffle import Shuffle
from gpumpc.protocols.ranking.topk import TopK
from gpumpc.protocols.ranking.vote import LabelledKeys, Vote
from gpumpc.protocols.step import Step
from gpumpc.protocols.truncation import Lift, Truncate
from gpumpc.retrieval.normalise import UNIT_FRAC, normalised, unit_score_bits

Metric = Literal["l2", "ip", "cosine"]

# Bits of a quantised feature, sign included.
VALUE_BITS = 13
ROWS = "rows"
LABELS = "labels"
# A label's share at rest: it is added to keys of any width.
LABEL_WORD_BITS = 64


@dataclasses.dataclass(frozen=True)
class Geometry:
    """The vectors of an index, and how they are compared.

    Attributes:
        metric: squared distance (smallest first), inner product or cosine (largest first).
        bits, frac, divisor: of the feature shares that are added or searched for.
    """

    dim: int
    metric: Metric
    bits: int
    frac: int
    divisor: int = 1

    @property
    def shift(self) -> int:
        """Fraction bits a feature loses; a v above 2^(bits-2) - 2^shift could leave the lift."""
        return max(0, self.bits - VALUE_BITS)

    @property
    def value_bits(self) -> int:
        """Bits of a quantised feature's share."""
        return self.bits - self.shift

    @property
    def value_frac(self) -> int:
        """Fraction bits of a quantised feature."""
        return self.frac - self.shift

    @property
    def score_bits(self) -> int:
        """A score s has |s| < 2^(score_bits-2): d (2 * 2^(VALUE_BITS-2))^2 at most, with one bit
        more for differences; a cosine is one at most, whatever d is.
        """
        if self.metric == "cosine":
            return unit_score_bits(self.dim)
        return 2 * (self.value_bits - 1) + self.dim.bit_length() + 2

    @property
    def weight_factor(self) -> int:
        """The factor of q.v in a score: |v|^2 - 2 q.v + |q|^2, or -q.v."""
        return -2 if self.metric == "l2" else -1

    @property
    def score_scale(self) -> float:
        """Ring units of a score per real unit."""
        if self.metric == "cosine":
            return float(4**UNIT_FRAC)
        return float((2**self.value_frac * self.divisor) ** 2)

    @property
    def score_frac(self) -> int:
        """Fraction bits of a score."""
        return 2 * (UNIT_FRAC if self.metric == "cosine" else self.value_frac)

    @property
    def score_divisor(self) -> int:
        """Divisor of a score."""
        return 1 if self.metric == "cosine" else self.divisor**2

    def id_bits(self, n_rows: int) -> int:
        """Bits of a row's position in a key."""
        return max(1, (n_rows - 1).bit_length())


def _quantised(geometry: Geometry, name: str, shape: tuple[int, int]) -> list[Step]:
    """Steps from `name` to `name/opened`, modulo 2^score_bits."""
    steps: list[Step] = []
    current, low, high = name, geometry.value_bits, geometry.score_bits
    if geometry.shift:
        current = f"{name}/short"
        steps.append(Truncate(current, (name,), current, shape, geometry.bits, geometry.shift))
    if geometry.metric == "cosine":
        steps += normalised(name, current, shape, low, high)
    else:
        steps.append(Lift(f"{name}/wide", (current,), f"{name}/wide", shape, low, high))
    steps.append(linear.Open(f"{name}/opened", (f"{name}/wide",), f"{name}/opened", shape, high))
    return steps


def rows_program(geometry: Geometry, n_rows: int, params: Params) -> Program:
    """Feature shares (n_rows, dim) -> `distances.Rows`: opened rows and their norms."""
    shape, k = (n_rows, geometry.dim), geometry.score_bits
    steps = _quantised(geometry, "v", shape)
    steps.append(
        distances.SquaredNorm("norms", ("v/opened",), "norms", shape, k, geometry.score_frac)
    )
    steps.append(distances.KeepRows("kept", ("v/opened", "norms"), "kept", shape))
    result = Value((n_rows,), k, geometry.score_frac, geometry.score_divisor)
    return Program(tuple(steps), {"v": _input(geometry, shape)}, "kept", result, {}, params)


def label_bits(n_labels: int) -> int:
    """Bits of a label among n_labels; 0 without labels. Raises PlanError for a negative number."""
    if n_labels < 0:
        raise PlanError(
            f"{n_labels} classes were asked for", hint="the number is positive, or 0 for none"
        )
    return max(1, (n_labels - 1).bit_length()) if n_labels else 0


def query_program(
    geometry: Geometry, n_queries: int, n_rows: int, k: int, params: Params, n_labels: int = 0
) -> Program:
    """Feature shares (n_queries, dim) -> the k best keys of each, score * 2^id_bits + position,
    ascending by score.

    Scores are |q - v|^2 for l2, -q.v for ip, and for cosine -q.v of vectors of length one: the best
    is the smallest. Raises PlanError for a k outside 1 to n_rows, or a key of more than 62 bits.

    With labels there is a second input, the rows' label shares (n_rows,) modulo 2^64, and the k
    best rows vote: the only result is the label that most of them have, (n_queries,) modulo
    2^label_bits.
    """
    bits, id_bits, tag_bits = geometry.score_bits, geometry.id_bits(n_rows), label_bits(n_labels)
    key_bits = bits + id_bits + tag_bits
    if not 1 <= k <= n_rows:
        why, hint = "there are not so many", f"ask for 1 to {n_rows}"
        raise PlanError(f"{k} neighbours were asked of {n_rows} rows", why, hint)
    if key_bits > 62:
        raise PlanError(
            f"keys of {bits} score bits, {id_bits} position bits and {tag_bits} label bits do not "
            "fit 62 bits",
            "the vectors are too long or the index too large",
            "split the index",
        )
    shape, product = (n_queries, geometry.dim), (n_queries, n_rows)
    frac = geometry.score_frac
    steps = _quantised(geometry, "q", shape)
    name, operator = "products", linear.MatMul()
    steps.append(
        linear.PrivateProduct(name, ("q/opened",), name, shape, ROWS, operator, product, bits, frac)
    )
    if geometry.metric == "l2":
        steps.append(distances.SquaredNorm("q/norm", ("q/opened",), "q/norm", shape, bits, frac))
        steps.append(distances.AddColumn("scores", (name, "q/norm"), "scores", product))
        name = "scores"
    inputs, output = {"q": _input(geometry, shape)}, "best"
    result = Value((n_queries, k), key_bits, 0)
    if n_labels:
        steps.append(LabelledKeys("keys", (name, LABELS), "keys", product, bits, id_bits, tag_bits))
        steps.append(Shuffle("shuffled", ("keys",), "shuffled", product, key_bits, 0))
        inputs[LABELS] = Value((n_rows,), LABEL_WORD_BITS, 0)
    else:
        steps.append(Shuffle("shuffled", (name,), "shuffled", product, bits, id_bits))
    steps.append(TopK("best", ("shuffled",), "best", product, key_bits, k))
    if n_labels:
        output, result = "vote", Value((n_queries,), tag_bits, 0)
        steps.append(Vote(output, ("best",), output, (n_queries, k), tag_bits))
    spec = WeightSpec((geometry.dim, n_rows), (n_rows,), bits, 1.0, 1.0)
    return Program(tuple(steps), inputs, output, result, {ROWS: spec}, params)


def _input(geometry: Geometry, shape: tuple[int, ...]) -> Value:
    return Value(shape, geometry.bits, geometry.frac, geometry.divisor)
