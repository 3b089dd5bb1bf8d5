"""Writes docs/performance.md with its plots: `python -m bench.performance_page FILE`."""

import sys
from pathlib import Path

import numpy as np

from bench.explain import Layer, Rates, explain, growth, measured_rates, total
from bench.machine import machine
from gpumpc.local import named_networks as models
from gpumpc.measure.workloads import BATCH

SHOWN = 14
_TITLES = {"vgg": "VGG-small", "lite0": "EfficientNet-Lite0 at 64 px"}
_BATCHES = {"vgg": (1, 2, 4, 8, 16), "lite0": (1, 2, 4, 8)}
_SIZES = (32, 64, 96)


def write_page(path: Path) -> None:
    """Measure, and write the page and its plots into one folder."""
    found = machine()
    described = f"{found['processor']}, {found['cores']} cores, NumPy {np.__version__}"
    parts = [_HEAD.format(machine=described)]
    for name, title in _TITLES.items():
        compiled = models.compile_named(name)
        with compiled.simulate(1) as session:
            rates, backend = measured_rates(session.backend), session.backend.name
        layers = explain(compiled, BATCH[name], rates)
        plot = path.parent / f"performance-{name}.svg"
        plot.write_text(_plot(layers))
        parts.append(_section(name, title, backend, rates, layers, plot.name))
        per_batch = growth(compiled, _BATCHES[name])
        parts.append(_one_line_table("images a batch", "ms an image, dealer included", per_batch))
    parts.append(_size_table())
    path.write_text("\n".join(parts))


_HEAD = """# Where the time goes

This page is written by `python -m bench.performance_page docs/performance.md` and describes one run
on one machine: {machine}. Dealer and both servers are three threads of one process; the dealer
finishes before the servers begin, so that each time belongs to one of them. Times of other
machines, and of a busy one, differ; the bytes and rounds do not.

The *floor* of a layer is its work at rates measured in the same run with one thread: ring
multiply-adds at the rate of a large product, uniform bytes at the rate of the generator, bytes
packed, sent and read at the rate of a copy, rounds at the time of an empty exchange between two
threads. What lies above it is passes over memory, small shapes, and one server waiting for the
other.
"""


_NAMES = (
    "layer, M multiply-adds, uniform MB, sent MB, dealt MB, rounds, floor ms, online ms, "
    "dealer floor ms, dealer ms"
)
_COLUMNS = f"| {' | '.join(_NAMES.split(', '))} |\n{'|---' * len(_NAMES.split(', '))}|"


def _section(
    name: str, title: str, backend: str, rates: Rates, layers: dict[str, Layer], plot: str
) -> str:
    ranked = sorted(layers, key=lambda name: -layers[name].seconds - layers[name].dealer_seconds)
    lines = [_line(layer, layers[layer]) for layer in ranked[:SHOWN]]
    if rest := {layer: layers[layer] for layer in ranked[SHOWN:]}:
        lines.append(_line(f"{len(rest)} more", total(rest)))
    lines.append(_line("**all**", total(layers)))
    return f"""
## {title}, batch {BATCH[name]}, {backend} backend

Rates of this run: {rates.madds / 1e9:.1f} G ring multiply-adds a second, {rates.uniform / 1e9:.1f}
GB of uniform bytes a second, copies {rates.copied / 1e9:.1f} GB a second, an empty exchange {
        1e6 * rates.exchange:.0f} microseconds.

{_COLUMNS}
{chr(10).join(lines)}

![Floor and measured time of each layer]({plot})
"""


def _line(name: str, layer: Layer) -> str:
    sizes = (layer.uniform, layer.online_bytes, layer.dealer_bytes)
    times = (layer.floor, layer.seconds, layer.dealer_floor, layer.dealer_seconds)
    numbers = [f"{layer.madds / 1e6:.1f}", *(f"{size / 1e6:.2f}" for size in sizes)]
    numbers += [str(layer.rounds), *(f"{1e3 * seconds:.1f}" for seconds in times)]
    return f"| {name} | {' | '.join(numbers)} |"


def _size_table() -> str:
    sizes = []
    for size in _SIZES:
        [(_, seconds)] = growth(models.compile_named("lite0", size=size), (1,))
        sizes.append((size, seconds))
    table = _one_line_table("Lite0, pixels a side", "ms an image, batch 1", sizes)
    return f"\n## Growth with the image\n\n{table}"


def _one_line_table(head: str, line: str, found: list[tuple[int, float]]) -> str:
    numbers = " | ".join(str(number) for number, _ in found)
    times = " | ".join(f"{1e3 * seconds:.1f}" for _, seconds in found)
    return f"| {head} | {numbers} |\n{'|---' * (len(found) + 1)}|\n| {line} | {times} |\n"


def _plot(layers: dict[str, Layer]) -> str:
    """Bars of every layer, in the order of the network: floor dark, what is above it light."""
    width, height, top = 960.0, 260.0, 24.0
    most = max(max(layer.seconds, layer.floor) for layer in layers.values())
    step = width / len(layers)
    bars = []
    for i, (name, layer) in enumerate(layers.items()):
        title = f"{name}: floor {1e3 * layer.floor:.2f} ms, measured {1e3 * layer.seconds:.2f} ms"
        whole = max(layer.seconds, layer.floor)
        for seconds, colour in ((whole, "#9ab8d6"), (layer.floor, "#1f4e79")):
            value = height * seconds / most
            bars.append(
                f'<rect x="{i * step:.2f}" y="{top + height - value:.2f}" '
                f'width="{0.8 * step:.2f}" height="{value:.2f}" '
                f'fill="{colour}"><title>{title}</title></rect>'
            )
    label = f"online time of a server by layer, {1e3 * most:.0f} ms at the top; dark: the floor"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height + top + 6:.0f}" '
        'role="img"><rect width="100%" height="100%" fill="white"/><text x="0" y="15" '
        f'font-family="sans-serif" font-size="13">{label}</text>{"".join(bars)}</svg>\n'
    )


if __name__ == "__main__":
    write_page(Path(sys.argv[1]))
