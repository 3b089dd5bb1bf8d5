"""A linear head on features: multinomial logistic regression, trained in the clear by the model's
owner, with the same result on every run.

The objective is scikit-learn's with C = 1 / l2, on standardised features. The standardisation is
folded into the head, which therefore takes features as they are.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gpumpc.errors import BadShape, BadValue

NEWTON_STEPS = 200
CG_STEPS = 500
# Newton stops where its model promises less than this part of the objective at zero weights.
TOLERANCE = 1e-12
# A step is halved until it brings at least this part of the descent that its slope promises.
ARMIJO, HALVINGS = 1e-4, 40

Floats = npt.NDArray[np.float64]


class Head(NamedTuple):
    """Logits of C sorted class names: `features @ weight + bias`; weight (d, C), bias (C,)."""

    classes: tuple[str, ...]
    weight: Floats
    bias: Floats

    def logits(self, features: npt.ArrayLike) -> Floats:
        """(N, d) -> (N, C)."""
        return np.asarray(np.asarray(features, dtype=np.float64) @ self.weight + self.bias)

    def predict(self, features: npt.ArrayLike) -> npt.NDArray[np.str_]:
        """(N, d) -> the (N,) names of the largest logits, the first on ties."""
        return np.asarray(np.array(self.classes)[self.logits(features).argmax(axis=1)])


def train_head(features: npt.ArrayLike, labels: npt.ArrayLike, *, l2: float = 1.0) -> Head:
    """The head that minimises `sum of -log p(label) + l2 / 2 * |weight|^2` (no bias in it).

    Args:
        features: (N, d). A feature that never varies gets weight 0.
        labels: (N,) names.
        l2: penalty on the weights of the standardised features.

    Raises:
        BadShape: not one label an item.
        BadValue: NaN or infinity, fewer than two classes, an `l2` that is not positive, or no
            minimum found.
    """
    x, classes, member = _checked(features, labels, l2)
    mean, spread = x.mean(axis=0), x.std(axis=0)
    # Rounding alone makes a constant feature vary by a few ulp, which must not be blown up to 1.
    varies = spread > 8 * np.finfo(np.float64).eps * np.sqrt(len(x)) * np.abs(mean)
    scale = np.where(varies, spread, 1.0)
    solution = _minimise(np.where(varies, (x - mean) / scale, 0.0), member, len(classes), l2)
    weight = solution[:-1] / scale[:, None]
    return Head(tuple(classes.tolist()), weight, solution[-1] - mean @ weight)


def _checked(
    features: npt.ArrayLike, labels: npt.ArrayLike, l2: float
) -> tuple[Floats, npt.NDArray[np.str_], Floats]:
    """Features, names of classes, and (N, C) ones and zeros."""
    try:
        x, names = np.asarray(features, dtype=np.float64), np.asarray(labels, dtype=np.str_)
    except (TypeError, ValueError) as error:
        hint = "pass (N, d) floats and N names"
        raise BadValue("the features are not an array of numbers", str(error), hint) from error
    if x.ndim != 2 or not x.size or names.shape != x.shape[:1]:
        hint = "pass (N, d) features and (N,) labels"
        raise BadShape(f"features {x.shape} with labels {names.shape}", hint=hint)
    if not np.isfinite(x).all():
        raise BadValue("the features contain NaN or infinity", hint="extract them again")
    if not (np.isfinite(l2) and l2 > 0):
        why = "without one there may be no minimum"
        raise BadValue(f"a penalty of {l2}", why, "use a positive l2")
    classes, index = np.unique(names, return_inverse=True)
    if len(classes) < 2:
        why = "there is nothing to tell apart"
        raise BadValue(f"all labels are '{classes[0]}'", why, "add another class")
    return x, classes, np.eye(len(classes))[index]


def _minimise(x: Floats, member: Floats, n_classes: int, l2: float) -> Floats:
    """Truncated Newton on the standardised problem; (d + 1, C), the bias last."""
    x = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    penalty = np.full((x.shape[1], 1), l2)
    penalty[-1] = 0.0
    solution = np.zeros((x.shape[1], n_classes))
    value, gradient, chance = _objective(x, member, penalty, solution)
    enough = TOLERANCE * value
    for _ in range(NEWTON_STEPS):
        step = _newton_step(x, chance, penalty, gradient)
        slope = float((gradient * step).sum())
        if -slope <= enough:
            return solution
        for halving in range(HALVINGS):
            trial = solution + 0.5**halving * step
            new = _objective(x, member, penalty, trial)
            if new[0] <= value + ARMIJO * 0.5**halving * slope:
                break
        else:
            # Rounding hides any further descent: this is the minimum in float64.
            return solution
        solution, (value, gradient, chance) = trial, new
    raise BadValue("no head was found", f"{NEWTON_STEPS} steps were not enough", "use a larger l2")


def _objective(
    x: Floats, member: Floats, penalty: Floats, solution: Floats
) -> tuple[float, Floats, Floats]:
    """The objective, its gradient, and the (N, C) probabilities."""
    logits = x @ solution
    logits -= logits.max(axis=1, keepdims=True)
    chance = np.exp(logits)
    total = chance.sum(axis=1, keepdims=True)
    chance /= total
    loss = float(np.log(total).sum() - (logits * member).sum())
    value = loss + float((penalty * solution * solution).sum()) / 2
    return value, x.T @ (chance - member) + penalty * solution, chance


def _newton_step(x: Floats, chance: Floats, penalty: Floats, gradient: Floats) -> Floats:
    """Conjugate gradients on `H step = -gradient`, stopped early far from the minimum."""

    def hessian(v: Floats) -> Floats:
        """`X^T (p * (X v - sum of p * X v)) + penalty * v`."""
        moved = x @ v
        moved -= (chance * moved).sum(axis=1, keepdims=True)
        return x.T @ (chance * moved) + penalty * v

    norm = float(np.linalg.norm(gradient))
    return _conjugate_gradients(hessian, -gradient, min(0.1, norm**0.5) * norm)


def _conjugate_gradients(
    apply: Callable[[Floats], Floats], target: Floats, residual_at_most: float
) -> Floats:
    """Solve `apply(v) = target` from 0.

    The constant over classes, which the softmax ignores, stays 0 by itself.
    """
    solution, residual = np.zeros_like(target), target.copy()
    direction, square = residual.copy(), float((target * target).sum())
    for _ in range(CG_STEPS):
        if square**0.5 <= residual_at_most:
            break
        applied = apply(direction)
        curvature = float((direction * applied).sum())
        if curvature <= 0:
            break
        length = square / curvature
        solution += length * direction
        residual -= length * applied
        before, square = square, float((residual * residual).sum())
        direction = residual + square / before * direction
    return solution
