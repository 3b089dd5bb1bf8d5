"""The transformer with a client that computes in the clear: scikit-learn, files, failures."""

import copy
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from gpumpc import errors
from gpumpc.client.feature_extractor import SecureFeatureExtractor
from gpumpc.client.served_plan import SealedResult
from gpumpc.errors import BadShape, BadValue, ConfigError, OutOfRange, PeerLost
from gpumpc.local.compile import Plan, compile
from gpumpc.media.png import png
from gpumpc.nn.graph import Flatten, Graph, Input, Linear
from gpumpc.params import Params
from gpumpc.program.plan import Preprocessing

pytest.importorskip("PIL.Image", reason="the extra [images] is not installed")
rng = np.random.default_rng(12)
LAYERS = (Input("x", (), (4, 4, 1), -1.0, 1.0), Flatten("flat", ("x",)), Linear("fc", ("flat",), 3))
WEIGHTS = {"fc.weight": rng.normal(size=(16, 3)) / 8, "fc.bias": rng.normal(size=3)}
RECIPE = Preprocessing((4, 4), (127.5,), (127.5,))
X = rng.uniform(-1, 1, (12, 4, 4, 1))


def compiled(preprocessing: Preprocessing | None = RECIPE) -> Plan:
    return compile((Graph(LAYERS), WEIGHTS), params=Params(), preprocessing=preprocessing)


COMPILED = compiled()


class FakeClient:
    """Holds uploads and computes in float; remembers what was asked of it."""

    def __init__(self, network=COMPILED, error=None):
        self.network, self.plan, self.error = network, network.record, error
        self.uploads: dict[str, np.ndarray] = {}
        self.calls: list[str] = []

    def share(self, values):
        self.calls.append("share")
        self.uploads["u"] = values
        return ["u"]

    def run(self, items, progress=None):
        self.calls.append("run")
        if self.error:
            raise self.error
        if progress:
            progress(1, 1)
        values = self.uploads[items[0]]
        return SealedResult(lambda: self.network.evaluate(values), len(values))

    def delete(self, items):
        self.calls.append("delete")
        if isinstance(self.error, PeerLost):
            raise PeerLost("the line is gone")
        del self.uploads[items[0]]

    def wait_ready(self, timeout_s):
        self.calls.append("wait_ready")

    def close(self):
        self.calls.append("close")

    def __deepcopy__(self, memo):
        raise TypeError("a client has sockets")


def over(client: Any, **more: Any) -> SecureFeatureExtractor:
    """An extractor over something that behaves like a client."""
    return SecureFeatureExtractor(client, **more)


def test_array_features_match_and_the_upload_is_deleted():
    client, heard = FakeClient(), []
    extractor = over(client, progress=lambda done, of: heard.append((done, of)))
    got = extractor.fit(X).transform(X)
    np.testing.assert_array_equal(got, COMPILED.evaluate(X))
    assert client.calls == ["share", "run", "delete"] and not client.uploads and heard == [(1, 1)]
    np.testing.assert_array_equal(extractor.fit_transform(X), got)
    assert extractor.get_feature_names_out().tolist() == ["secure0", "secure1", "secure2"]


def test_file_features_match_preprocessed_arrays(tmp_path):
    levels = rng.integers(0, 256, (3, 4, 4, 1))
    paths = [tmp_path / f"{name}.png" for name in "cab"]
    for path, image in zip(paths, levels, strict=True):
        path.write_bytes(png(image / 255))
    want = COMPILED.evaluate((levels - 127.5) / 127.5)
    extractor = over(FakeClient())
    for given in (paths, [str(path) for path in paths], np.array([str(path) for path in paths])):
        np.testing.assert_allclose(extractor.transform(given), want, atol=1e-6)
    bare = over(FakeClient(compiled(preprocessing=None)))
    with pytest.raises(ConfigError, match="compiled without a recipe"):
        bare.transform(paths)


def test_files_without_exactly_one_image_are_refused(tmp_path):
    pillow = pytest.importorskip("PIL.Image")
    (tmp_path / "a.png").write_bytes(png(np.zeros((4, 4))))
    pages = [pillow.fromarray(np.full((4, 4), level, dtype=np.uint8)) for level in (1, 2)]
    pages[0].save(tmp_path / "two.tif", save_all=True, append_images=pages[1:])
    (tmp_path / "bad.png").write_bytes(b"no image")
    client = FakeClient()
    extractor = over(client)
    with pytest.raises(BadShape, match="1 paths hold 2 images"):
        extractor.transform([tmp_path / "two.tif"])
    with pytest.raises(errors.UnreadableImage, match="bad.png"):
        extractor.transform([tmp_path / "a.png", tmp_path / "bad.png"])
    with pytest.raises(errors.MissingFile):
        extractor.transform([tmp_path / "none.png"])
    (tmp_path / "folder").mkdir()
    (tmp_path / "a.png").rename(tmp_path / "folder" / "a.png")
    with pytest.raises(BadShape, match="folder"):
        extractor.transform([tmp_path / "folder"])
    with pytest.raises(BadValue, match="is one path"):
        extractor.transform(str(tmp_path / "a.png"))
    assert client.calls == []


OUTSIDE = [(X[..., 0], BadShape), (X[:0], BadShape), ([], BadShape), (X * 2, OutOfRange)]
OUTSIDE += [(X * np.nan, BadValue), ([[["a"]]], BadValue)]


@pytest.mark.parametrize(("images", "error"), OUTSIDE)
def test_images_outside_the_plan_are_never_sent(images, error):
    client = FakeClient()
    for verb in ("fit", "transform", "fit_transform"):
        with pytest.raises(error):
            getattr(over(client), verb)(images)
    assert client.calls == []


def test_extractor_works_in_a_scikit_learn_pipeline():
    sklearn = pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features = COMPILED.evaluate(X)
    labels = (features[:, 0] > np.median(features[:, 0])).astype(int)
    extractor = over(FakeClient())
    pipeline = make_pipeline(extractor, StandardScaler(), LogisticRegression()).fit(X, labels)
    alone = make_pipeline(StandardScaler(), LogisticRegression()).fit(features, labels)
    np.testing.assert_array_equal(pipeline.predict(X), alone.predict(features))
    assert pipeline.named_steps["securefeatureextractor"] is extractor
    assert pipeline[:-1].get_feature_names_out().tolist() == ["secure0", "secure1", "secure2"]
    twin = sklearn.clone(extractor)
    assert twin is not extractor and twin.client is extractor.client
    scores = cross_val_score(pipeline, X, labels, cv=2)
    assert len(scores) == 2 and np.isfinite(scores).all()
    sklearn.utils.validation.check_is_fitted(extractor)
    assert "SecureFeatureExtractor(client)" in repr(pipeline)


def test_get_and_set_params_follow_scikit_learn():
    client: Any = FakeClient()
    extractor = SecureFeatureExtractor(config="a.toml", plan="folder")
    files, others = {"config": "a.toml", "plan": "folder"}, {"client": None, "progress": None}
    assert extractor.get_params() == {**files, **others}
    assert extractor.set_params(client=client) is extractor and extractor.client is client
    with pytest.raises(BadValue, match="no parameter 'size'"):
        extractor.set_params(size=3)


@pytest.mark.parametrize(
    "error", [PeerLost("server 0 is gone"), ConfigError("no space"), KeyboardInterrupt()]
)
def test_error_is_raised_and_the_upload_deleted_if_possible(error):
    client = FakeClient(error=error)
    with pytest.raises(type(error)) as caught:
        over(client).transform(X)
    assert caught.value is error and client.calls == ["share", "run", "delete"]
    assert bool(client.uploads) == isinstance(error, PeerLost)


def test_connection_is_opened_once_and_closed(monkeypatch, tmp_path):
    COMPILED.save(tmp_path / "plan")
    made: list[FakeClient] = []

    def connect(config, plan):
        assert config == "client.toml" and plan == COMPILED.record
        made.append(FakeClient())
        return made[-1]

    monkeypatch.setattr("gpumpc.client.feature_extractor.connect", connect)
    with SecureFeatureExtractor(config="client.toml", plan=tmp_path / "plan") as extractor:
        extractor.fit(X)
        assert not made
        np.testing.assert_array_equal(extractor.transform(X), extractor.transform(X))
        assert made[0].calls == ["wait_ready", *["share", "run", "delete"] * 2]
        twin = copy.copy(extractor)
        twin.transform(X)  # what a worker process has: the arguments, and a connection of its own
        twin.close()
        assert len(made) == 2 and made[1].calls[-1] == "close" and made[0].calls[-1] == "delete"
        extractor.set_params(plan=COMPILED)
        assert made[0].calls[-1] == "close"
        extractor.transform(X)
    assert len(made) == 3 and made[2].calls[-1] == "close"
    extractor.close()
    assert made[2].calls.count("close") == 1


def test_unready_servers_close_the_connection(monkeypatch):
    made: Any = FakeClient()
    made.wait_ready = lambda timeout_s: (_ for _ in ()).throw(PeerLost("not ready"))
    monkeypatch.setattr("gpumpc.client.feature_extractor.connect", lambda config, plan: made)
    with pytest.raises(PeerLost):
        SecureFeatureExtractor(config="client.toml", plan=COMPILED.record).transform(X)
    assert made.calls == ["close"]


def test_missing_client_config_or_plan_is_an_error():
    with pytest.raises(ConfigError, match="neither client nor plan"):
        SecureFeatureExtractor().fit(X)
    with pytest.raises(ConfigError, match="neither client nor config"):
        SecureFeatureExtractor(plan=COMPILED.record).transform(X)


def test_extractor_imports_without_scikit_learn():
    code = "import sys; sys.modules['sklearn'] = None\n"
    code += "import gpumpc; gpumpc.SecureFeatureExtractor()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
