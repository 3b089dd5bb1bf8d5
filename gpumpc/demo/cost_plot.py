"""Cost by layer: added up over a program's steps, drawn as an inline SVG, and listed."""

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import NamedTuple, Protocol

from gpumpc.cost import Cost

N_LISTED = 8
WIDTH, LEFT, TOP = 960.0, 66.0, 34.0
# Of both panels of bytes together, of the strip of rounds, and between them.
BYTES_HEIGHT, ROUNDS_HEIGHT, GAP = 320.0, 44.0, 34.0
# Among one another bars fill this part of their place.
FILL = 0.78


class _Step(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def cost(self) -> Cost: ...


class LayerCost(NamedTuple):
    """The cost of one layer: bytes an image, from server to server and from the dealer; rounds."""

    name: str
    online_bytes: float
    dealer_bytes: float
    rounds: int


def layer_costs(steps: Iterable[_Step], batch_size: int) -> list[LayerCost]:
    """Costs by layer (`conv/product` and `conv/open` belong to `conv`), bytes an image.

    Layers that send nothing are left out.
    """
    totals: dict[str, Cost] = {}
    for step in steps:
        layer = step.name.split("/")[0]
        totals[layer] = totals.get(layer, Cost()) + step.cost
    rows = [
        LayerCost(name, c.online_bytes / batch_size, c.dealer_bytes / batch_size, c.rounds)
        for name, c in totals.items()
    ]
    return [row for row in rows if row.online_bytes or row.dealer_bytes or row.rounds]


def bytes_text(n_bytes: float) -> str:
    """Bytes for people: 950 B, 1.5 kB, 17.1 MB."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= size:
            return f"{n_bytes / size:.3g} {unit}"
    return f"{n_bytes:.3g} B"


def cost_section(layers: Sequence[LayerCost]) -> str:
    """The plot with the table of the costliest layers, as HTML; nothing for no layers."""
    if not layers:
        return ""
    online = sum(row.online_bytes for row in layers)
    dealer = sum(row.dealer_bytes for row in layers)
    # By place: two layers may cost the same and have the same name.
    ranked = sorted(range(len(layers)), key=lambda i: -_bytes(layers[i]))[:N_LISTED]
    total = max(online + dealer, 1e-9)
    body = "".join(_line(rank, layers[place], total) for rank, place in enumerate(ranked, start=1))
    heads = '<th class="n">no.</th><th>costliest layers</th>' + "".join(
        f'<th class="n">{head}</th>' for head in ("online", "dealer", "rounds", "of all bytes")
    )
    rounds = sum(row.rounds for row in layers)
    return (
        f"<p>{len(layers)} layers that send something, in the order of the network. An image costs "
        f"{bytes_text(online)} from one server to the other and {bytes_text(dealer)} from the "
        f"dealer; a batch takes {rounds} rounds.</p>{_plot(layers, ranked)}"
        f'<div class="wide"><table class="small"><thead><tr>{heads}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _bytes(row: LayerCost) -> float:
    return row.online_bytes + row.dealer_bytes


def _line(rank: int, row: LayerCost, total: float) -> str:
    part = f"{100 * _bytes(row) / total:.1f} %"
    cells = (bytes_text(row.online_bytes), bytes_text(row.dealer_bytes), str(row.rounds), part)
    numbers = "".join(f'<td class="n">{cell}</td>' for cell in cells)
    return f'<tr><td class="n">{rank}</td><td><code>{escape(row.name)}</code></td>{numbers}</tr>'


def _plot(layers: Sequence[LayerCost], ranked: Sequence[int]) -> str:
    """Online bytes upwards, the dealer's downwards in the same scale, rounds in a strip below."""
    most_online = max(row.online_bytes for row in layers)
    most_dealer = max(row.dealer_bytes for row in layers)
    scale = BYTES_HEIGHT / max(most_online + most_dealer, 1e-9)
    top_rounds = max(*(row.rounds for row in layers), 1)
    up = TOP + scale * most_online
    down = up + GAP
    strip = down + scale * most_dealer + GAP
    step = (WIDTH - LEFT) / len(layers)
    parts = [_axis(up, -scale, most_online), _axis(down, scale, most_dealer)]
    for place, row in enumerate(layers):
        x, width = LEFT + step * (place + (1 - FILL) / 2), step * FILL
        height = scale * row.online_bytes
        parts += [
            f"<g><title>{escape(_description(row))}</title>",
            _bar("online", x, up - height, width, height),
            _bar("dealer", x, down, width, scale * row.dealer_bytes),
            _bar("rounds", x, strip, width, ROUNDS_HEIGHT * row.rounds / top_rounds),
            "</g>",
        ]
        if place in ranked:
            rank = str(ranked.index(place) + 1)
            middle = 'class="rank" text-anchor="middle"'
            parts.append(_text(x + width / 2, up - height - 4, rank, middle))
    parts += [
        _text(LEFT, 12, "online, one server to the other"),
        _text(LEFT, down - 8, "dealer to server"),
        _text(LEFT, strip - 8, f"rounds, at most {top_rounds} a layer"),
    ]
    box = f"0 0 {WIDTH:g} {strip + ROUNDS_HEIGHT + 8:.0f}"
    label = "Bars of bytes and rounds by layer; the table below lists the costliest"
    opening = f'<svg class="plot" viewBox="{box}" role="img" aria-label="{label}">'
    return f"{opening}{''.join(parts)}</svg>"


def _description(row: LayerCost) -> str:
    online, dealer = bytes_text(row.online_bytes), bytes_text(row.dealer_bytes)
    return f"{row.name}: {online} online, {dealer} from the dealer, {row.rounds} rounds"


def _text(x: float, y: float, text: str, attributes: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {attributes}>{escape(text)}</text>'


def _bar(kind: str, x: float, y: float, width: float, height: float) -> str:
    place = f'x="{x:.2f}" y="{y:.2f}" width="{width:.2f}" height="{height:.2f}"'
    return f'<rect class="{kind}" {place}/>'


def _axis(zero: float, scale: float, most: float) -> str:
    """Lines at round numbers of bytes, from 0 upwards (negative scale) or downwards."""
    step = _round_step(most)
    lines = []
    for count in range(int(most / step) + 1):
        y = zero + scale * step * count
        lines.append(f'<line class="axis" x1="{LEFT:g}" x2="{WIDTH:g}" y1="{y:.2f}" y2="{y:.2f}"/>')
        lines.append(_text(LEFT - 8, y + 4, bytes_text(step * count), 'text-anchor="end"'))
    return "".join(lines)


def _round_step(most: float) -> float:
    """1, 2 or 5 times a power of ten: two to five steps up to `most`."""
    if most <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(most / 2))
    return max(factor * power for factor in (1, 2, 5) if factor * power <= most / 2)
