"""Random networks with every kind of layer that an oracle can predict."""

import itertools

import numpy as np

from gpumpc.nn import graph as g


class GraphMaker:
    """A random network: every kind of layer and of joint, in random order and sizes."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.names = (f"v{i}" for i in itertools.count())
        shape = self.pick(9, 12), self.pick(9, 12), self.pick(1, 3)
        self.layers: list[g.AnyLayer] = [g.Input(next(self.names), (), shape, -1.0, 1.0)]
        self.weights: dict[str, np.ndarray] = {}

    def shape(self, name: str) -> tuple[int, ...]:
        return g.Graph(tuple(self.layers)).shapes()[name]

    def pick(self, low: int, high: int) -> int:
        return int(self.random.integers(low, high + 1))

    def add(self, kind: type, *inputs: str, **fields: object) -> str:
        self.layers.append(kind(next(self.names), inputs, **fields))
        name = self.layers[-1].name
        for weight, shape in g.Graph(tuple(self.layers)).weight_shapes().items():
            if weight not in self.weights:
                spread = 1.5 / np.prod(shape[:-1]) if "weight" in weight else 0.3
                self.weights[weight] = self.random.uniform(-spread, spread, shape)
        return name

    def padding(self, kernel: tuple[int, int]) -> tuple[int, ...]:
        return tuple(self.pick(0, size - 1) for size in kernel for _ in range(2))

    def conv(self, x: str, out: int | None = None, groups: int = 1, same: bool = False) -> str:
        kernel = (3, 3) if same else (self.pick(1, 3), self.pick(1, 3))
        padding = (1, 1, 1, 1) if same else self.padding(kernel)
        stride = (1, 1) if same else (self.pick(1, 2), 1)
        where = {"kernel": kernel, "stride": stride, "padding": padding}
        return self.add(g.Conv2d, x, out_channels=out or self.pick(2, 5), groups=groups, **where)

    def activation(self, x: str) -> str:
        if self.pick(0, 1):
            return self.add(g.ReLU, x)
        return self.add(g.Clamp, x, high=float(self.random.uniform(0.1, 2)))

    def depthwise(self, x: str) -> str:
        channels = self.shape(x)[-1]
        return self.activation(self.conv(x, channels * self.pick(1, 2), channels))

    def grouped(self, x: str) -> str:
        return self.conv(self.conv(x, 4), 6, groups=2)

    def pool(self, x: str) -> str:
        window = (self.pick(2, 3), self.pick(2, 3))
        stride = self.pick(1, 2), 1
        return self.add(g.MaxPool, x, window=window, stride=stride, padding=self.padding(window))

    def residual(self, x: str) -> str:
        """An operand that is read twice; one summand may come activated, the other not."""
        inner = self.conv(self.activation(x), self.shape(x)[-1], same=True)
        return self.add(g.Add, inner, x)

    def branches(self, x: str) -> str:
        """Two products of one opened value, joined."""
        left, right = self.conv(x, 2, same=True), self.conv(x, 3, same=True)
        return self.add(g.Concat, left, self.activation(right))

    def average(self, x: str) -> str:
        """A window whose area is not a power of two, then a product that removes its divisor."""
        x = self.add(g.AvgPool, x, window=(1, 3), stride=(1, 1))
        x = self.activation(x) if self.pick(0, 1) else x
        return self.conv(x, 3, same=True)

    def moved(self, x: str) -> str:
        """Entries moved to other places and back, and a border of zeros."""
        h, w, c = self.shape(x)
        x = self.add(g.Permute, self.add(g.Reshape, x, shape=(h, w * c)), axes=(1, 0))
        x = self.add(g.Reshape, self.add(g.Permute, x, axes=(1, 0)), shape=(h, w, c))
        return self.add(g.Take, x, axis=1, indices=(*range(w - 1, 0, -1), -1))

    def public(self, x: str) -> str:
        """Factors and weights that are integers."""
        x = self.add(g.Scale, x, factor=-1.0, offset=0.25)
        rows = self.shape(x)[0]
        pairs = tuple((i, (i + 1) % rows) for i in range(rows))
        return self.add(g.Mix, x, axis=0, taps=pairs, weights=((1.0, -1.0),) * len(pairs))

    def product(self, x: str) -> str:
        """An image times one of its own kind, and times one factor a channel."""
        x = self.conv(x, 2, same=True)
        window = self.shape(x)[:2]
        column = self.add(g.MaxPool, self.activation(x), window=window, stride=window)
        return self.add(g.Multiply, self.add(g.Multiply, x, x), column)

    def make(self) -> tuple[g.Graph, dict[str, np.ndarray]]:
        x = self.conv(self.layers[0].name)
        parts = [self.depthwise, self.grouped, self.pool]
        parts += [self.residual, self.branches, self.average, self.moved, self.public]
        parts += [self.product]
        for i in self.random.permutation(len(parts)):
            x = parts[i](x)
        window = tuple(min(2, size) for size in self.shape(x)[:2])
        x = self.add(g.AvgPool, x, window=window, stride=(2, 2))
        x = self.add(g.Linear, self.add(g.Flatten, x), out_features=self.pick(3, 9))
        if self.pick(0, 2):
            x = self.add(g.Argmax, x)
        return g.Graph(tuple(self.layers)), self.weights
