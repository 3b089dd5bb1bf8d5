"""The timed networks as graph records: Lite0, ResNet-18, ResNet-50, VGG-16, one for tests."""

from gpumpc.nn import graph as g
from gpumpc.nn.graph import Graph

# repeats, kernel, stride, expansion, channels after: EfficientNet-Lite0
LITE0 = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
VGG16 = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))


class Builder:
    """Appends records; keeps the name, size and channels of the last value."""

    def __init__(self, size: int, channels: int = 3) -> None:
        self.layers: list[g.AnyLayer] = [g.Input("x", (), (size, size, channels), -4.0, 4.0)]
        self.last, self.size, self.channels = "x", size, channels

    def _name(self, kind: str) -> str:
        return f"{kind}{len(self.layers)}"

    def put(self, layer: g.AnyLayer) -> None:
        """Append a record; it is the last value now."""
        self.layers.append(layer)
        self.last = layer.name

    def conv(
        self, channels: int, kernel: int, stride: int = 1, groups: int = 1, source: str = ""
    ) -> None:
        """A convolution that keeps the size, or divides it by the stride."""
        out = -(-self.size // stride)
        total = max((out - 1) * stride + kernel - self.size, 0)
        padding = (total // 2, total - total // 2) * 2
        name, inputs, step = self._name("conv"), (source or self.last,), (stride, stride)
        self.put(g.Conv2d(name, inputs, (kernel, kernel), channels, step, padding, groups))
        self.size, self.channels = out, channels

    def relu(self) -> None:
        """max(x, 0)."""
        self.put(g.ReLU(self._name("relu"), (self.last,)))

    def clamp(self) -> None:
        """ReLU6."""
        self.put(g.Clamp(self._name("clamp"), (self.last,), 6.0))

    def max_pool(self, window: int, stride: int, before: int = 0) -> None:
        """Maximum over square windows, `before` padding above and to the left."""
        after = max((-(-self.size // stride) - 1) * stride + window - self.size - before, 0)
        padding, inputs = (before, after, before, after), (self.last,)
        self.put(g.MaxPool(self._name("max"), inputs, (window,) * 2, (stride,) * 2, padding))
        self.size = (self.size + before + after - window) // stride + 1

    def add(self, other: str) -> None:
        """The sum with an earlier value."""
        self.put(g.Add(self._name("add"), (self.last, other)))

    def head(self, classes: int) -> Graph:
        """Global average, one linear layer."""
        self.put(g.AvgPool(self._name("mean"), (self.last,), (self.size, self.size), (1, 1)))
        return self.linear(classes)

    def linear(self, features: int) -> Graph:
        """Flatten, one linear layer, and the graph."""
        self.put(g.Flatten(self._name("flat"), (self.last,)))
        self.put(g.Linear(self._name("linear"), (self.last,), features))
        return Graph(tuple(self.layers))


def lite0(size: int = 224, classes: int = 1000) -> Graph:
    """EfficientNet-Lite0."""
    b = Builder(size)
    b.conv(32, 3, 2)
    b.clamp()
    for repeats, kernel, stride, expand, after in LITE0:
        for i in range(repeats):
            source, before = b.last, b.channels
            inner, step = before * expand, stride if i == 0 else 1
            if expand > 1:
                b.conv(inner, 1)
                b.clamp()
            b.conv(inner, kernel, step, groups=inner)
            b.clamp()
            b.conv(after, 1)
            if step == 1 and before == after:
                b.add(source)
    b.conv(1280, 1)
    b.clamp()
    return b.head(classes)


def resnet(
    blocks: tuple[int, ...], bottleneck: bool, size: int = 224, classes: int = 1000
) -> Graph:
    """A residual network with 1x1 shortcuts where the shape changes."""
    b = Builder(size)
    b.conv(64, 7, 2)
    b.relu()
    b.max_pool(3, 2, 1)
    for stage, repeats in enumerate(blocks):
        width = 64 << stage
        after = 4 * width if bottleneck else width
        for i in range(repeats):
            source, before, came = b.last, b.channels, b.size
            stride = 2 if stage and i == 0 else 1
            convs = [(3, width, stride), (1 if bottleneck else 3, after, 1)]
            for kernel, channels, step in [(1, width, 1)] * bottleneck + convs:
                b.conv(channels, kernel, step)
                b.relu()
            del b.layers[-1]  # the last activation follows the sum
            b.last = b.layers[-1].name
            main = b.last
            if stride > 1 or before != after:
                b.size, b.channels = came, before
                b.conv(after, 1, stride, source=source)
                source = b.last
                b.last = main
            b.add(source)
            b.relu()
    return b.head(classes)


def resnet18(size: int = 224) -> Graph:
    """ResNet-18."""
    return resnet((2, 2, 2, 2), False, size)


def resnet50(size: int = 224) -> Graph:
    """ResNet-50."""
    return resnet((3, 4, 6, 3), True, size)


def vgg16(size: int = 224) -> Graph:
    """VGG-16 with its pooling before the activation, and one linear layer behind it."""
    b = Builder(size)
    for repeats, channels in VGG16:
        for i in range(repeats):
            b.conv(channels, 3)
            if i + 1 == repeats:
                b.max_pool(2, 2)
            b.relu()
    return b.linear(1000)


def tiny(size: int = 8) -> Graph:
    """Every kind of layer once: convolution, depthwise, clamp, ReLU, pools, residual, linear."""
    b = Builder(size)
    b.conv(24, 3)
    b.clamp()
    b.conv(24, 3, groups=24)
    b.clamp()
    source = b.last
    b.conv(24, 3)
    b.add(source)
    b.relu()
    b.conv(32, 1)
    b.max_pool(2, 2)
    b.relu()
    b.conv(20, 3, 2)
    b.put(g.AvgPool("mean", (b.last,), (2, 2), (1, 1)))
    b.size -= 1
    return b.linear(17)


NETWORKS = {"lite0": lite0, "resnet18": resnet18, "resnet50": resnet50, "vgg16": vgg16}
