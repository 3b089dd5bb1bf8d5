"""The report: loads nothing, shows its input escaped, tells right from wrong without colour."""

import base64
import io
import re
import stat
from html.parser import HTMLParser

import numpy as np
import pytest

from gpumpc.cost import Cost
from gpumpc.datasets.labelled import LabelledImages
from gpumpc.demo import cost_plot
from gpumpc.demo.cost_plot import LayerCost, bytes_text, layer_costs
from gpumpc.demo.report import Found, Note, Query, Report, class_rows, html, write_report
from gpumpc.errors import BadShape, BadValue, ConfigError
from gpumpc.program.compiler import program_of
from tests.processes.cluster import tiny

Image = pytest.importorskip("PIL.Image", reason="the extra [images] is not installed")
rng = np.random.default_rng(5)
PICTURES = rng.integers(0, 256, (8, 6, 6, 3)) / 255.0
EVIL = '<script>alert("1")</script>\'&amp;'
LAYERS = [
    LayerCost("conv1", 1e6, 4e6, 1),
    LayerCost(f"relu {EVIL}", 2e6, 3e6, 5),
    LayerCost("fc", 0.0, 500.0, 0),
]


def query(truth="MR", secure="MR", fixed="MR", labels=("MR", "CT", "MR")):
    found = [Found(PICTURES[i + 1, ..., :1], label, 0.5 - i / 8) for i, label in enumerate(labels)]
    return Query(PICTURES[0], truth, secure, fixed, found)


def benchmark():
    labels = np.array(["MR", "MR", "CT", "CT", "CT", "MR", "CT", "MR"])
    sources = np.array(["a", "b", "c", "c", "d", "e", "f", EVIL])
    return LabelledImages(PICTURES, labels, sources, np.arange(8) < 5)


def report(**changed):
    whole = {
        "title": "Private search",
        "rows": [("accuracy", "0.91"), ("images", "553 from 14")],
        "queries": [query(), query(truth="CT"), query(fixed="CT")],
        "layers": LAYERS,
        "classes": class_rows(benchmark()),
        "notes": [Note("How", "One.\n\nTwo."), Note("What was tried", "Nothing else.")],
        "lead": "A sentence.",
        "score": "cosine",
    }
    return Report(**{**whole, **changed})


class Page(HTMLParser):
    """Elements with their attributes, and the text outside of styles."""

    VOID = ("meta", "img", "br")

    def __init__(self, text):
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    def of(self, tag, **attributes):
        elements = [found for name, found in self.elements if name == tag]
        return [found for found in elements if attributes.items() <= found.items()]


def test_report_loads_no_external_resource():
    page = Page(html(report()))
    loaders = {"script", "link", "iframe", "object", "embed", "base", "form", "a", "use"}
    assert not (loaders | {"video", "audio"}) & {tag for tag, _ in page.elements}
    loading = ("href", "srcset", "style", "background", "action")
    for _, attributes in page.elements:
        for name, value in attributes.items():
            assert not name.startswith("on") and name not in loading
            assert name != "src" or value.startswith("data:image/png;base64,")
    [policy] = [
        a["content"] for a in page.of("meta") if a.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy.startswith("default-src 'none'")
    assert "url(" not in html(report()) and "@import" not in html(report())
    assert "http" not in html(report(title="x"))[300:]


def test_report_shows_everything_given():
    page = Page(html(report()))
    for word in ("Private search", "A sentence.", "553 from 14", "0.91", "Two.", "What was tried"):
        assert word in page.text
    assert "class and cosine" in page.text
    assert "On shares, 2 of 3 labels are right, and 2 of 3 equal" in page.text
    images = "5 images from 4 sources to train on and to search, 3 from 3 to test with"
    assert f"{images}; none of them in both" in page.text
    assert "2 sources: a, b" in page.text and "1 source: f" in page.text
    first, *others = re.findall("<h2>(.*?)</h2>", html(report()))
    assert first == "Queries, and what was found"
    assert others == ["Cost by layer", "Images and their sources", "Notes"]
    bare = Page(html(Report("only a title", [])))
    assert bare.text == "only a title only a title"


def test_report_embeds_the_exact_images():
    shown = [a["src"].split(",")[1] for a in Page(html(report(queries=[query()]))).of("img")]
    assert len(shown) == 4
    for data, want in zip(shown, (PICTURES[0], *PICTURES[1:4, ..., :1]), strict=True):
        with Image.open(io.BytesIO(base64.b64decode(data, validate=True))) as picture:
            levels = np.asarray(picture).reshape(want.shape)
            np.testing.assert_array_equal(levels, np.rint(want * 255))


def test_right_and_wrong_labels_differ_in_words_and_signs():
    right, wrong = (
        Page(html(report(queries=[asked], layers=(), classes=(), notes=())))
        for asked in (query(labels=["MR"]), query(secure="CT", fixed="MR", labels=["CT"]))
    )
    for page, mark, other in ((right, "right", "wrong"), (wrong, "wrong", "right")):
        assert len(page.of("li", **{"class": mark})) == 1
        assert not page.of("li", **{"class": other})
    assert "secure: MR ✓ right fixed: the same ✓ right: MR" in right.text
    assert "secure: CT ✗ wrong fixed: MR ≠ differs ✗ wrong: CT" in wrong.text
    [picture] = [a["alt"] for a in wrong.of("img") if a["alt"].startswith("found")]
    assert picture == "found, CT"


def test_report_escapes_all_text():
    evil = query(truth=EVIL, secure=EVIL, fixed=EVIL, labels=[EVIL])
    queries, texts = [evil, query(fixed=EVIL)], {"title": EVIL, "lead": EVIL, "score": EVIL}
    notes = [Note(EVIL, EVIL)]
    text = html(report(rows=[(EVIL, EVIL)], queries=queries, notes=notes, **texts))
    page = Page(text)
    assert "<script" not in text and not page.of("script")
    # title twice, two cells, lead, score, heading and paragraph; truth and secure; the found; the
    # other's fixed label; a source; the layer's name and its tooltip
    assert page.text.count('<script>alert("1")</script>\'&amp;') == 8 + 2 + 1 + 1 + 1 + 2
    assert [a["alt"] for a in page.of("img")][:2] == [f"query, {EVIL}", f"found, {EVIL}"]


def bars(text, kind):
    return [(float(a["y"]), float(a["height"])) for a in Page(text).of("rect", **{"class": kind})]


def test_bar_heights_are_proportional_to_cost():
    text = html(report())
    online, dealer, rounds = (bars(text, kind) for kind in ("online", "dealer", "rounds"))
    unit = dealer[0][1] / 4e6
    for found, want in (
        (online, [1e6 * unit, 2e6 * unit, 0]),
        (dealer, [4e6 * unit, 3e6 * unit, 500 * unit]),
        (rounds, [44 / 5, 44, 0]),
    ):
        np.testing.assert_allclose([height for _, height in found], want, atol=0.02)
    assert len({round(y + height, 1) for y, height in online}) == 1
    assert len({y for y, _ in dealer}) == 1
    heights = [float(a["viewbox"].split()[3]) for a in Page(text).of("svg")]
    assert max(y + height for y, height in rounds) <= heights[0]
    assert "3 layers that send something" in Page(text).text
    assert "3 MB from one server" in Page(text).text
    assert "a batch takes 6 rounds" in Page(text).text and "50.0 %" in Page(text).text


PLOTS = [
    [LayerCost("a", 0, 0, 1)],
    [LayerCost("a", 1, 0, 0)] * 300,
    [LayerCost("a", 1e12, 1, 2)] * 2,
]


@pytest.mark.parametrize("layers", PLOTS)
def test_cost_plot_works_for_any_number_of_layers(layers):
    page = Page(html(report(layers=layers)))
    assert len(page.of("rect")) == 3 * len(layers)
    assert all(float(a["height"]) >= 0 and float(a["width"]) > 0 for a in page.of("rect"))
    assert len(page.of("text", **{"class": "rank"})) == min(len(layers), cost_plot.N_LISTED)


def test_layer_costs_add_up_to_the_program_cost():
    program = program_of(tiny().record, 4)
    rows = layer_costs(program.steps, 4)
    assert [row.name for row in rows] == ["x", "conv", "relu", "flat", "fc"]  # and no conv/product
    total = program.cost
    assert sum(row.rounds for row in rows) == total.rounds
    assert sum(row.dealer_bytes for row in rows) * 4 == total.dealer_bytes
    assert sum(row.online_bytes for row in rows) * 4 == total.online_bytes
    free = type("Step", (), {"name": "flatten", "cost": Cost()})
    assert layer_costs([free()], 1) == []


def test_bytes_text_uses_decimal_units():
    texts = [bytes_text(n) for n in (0, 950, 1500, 17_114_336, 2.5e9)]
    assert texts == ["0 B", "950 B", "1.5 kB", "17.1 MB", "2.5 GB"]


def test_report_is_written_atomically_and_repeatably(tmp_path):
    path = tmp_path / "out" / "report.html"
    write_report(path, report(title="a name that is no text: \udcff"))
    first = path.read_bytes()
    assert b"no text: \\udcff" in first
    write_report(path, report(title="a name that is no text: \udcff"))
    assert path.read_bytes() == first and [p.name for p in path.parent.iterdir()] == ["report.html"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_unwritable_reports_are_refused(tmp_path):
    for image, error in ((np.zeros((4, 4, 2)), BadShape), (np.full((4, 4), 1.5), BadValue)):
        with pytest.raises(error):
            write_report(tmp_path / "x.html", report(queries=[query()._replace(image=image)]))
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be saved"):
        write_report(tmp_path / "file" / "x.html", report())
    (tmp_path / "x.html").mkdir()
    with pytest.raises(ConfigError, match="cannot be saved"):
        write_report(tmp_path / "x.html", report())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "x.html"]
