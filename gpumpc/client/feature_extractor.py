"""Private features as a step of a scikit-learn pipeline.

scikit-learn is not imported here: the class follows its conventions, and works without it.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt

from gpumpc.client.client import Client, connect
from gpumpc.client.served_plan import AnyPlan, record_of
from gpumpc.deploy.config import ClientConfig
from gpumpc.errors import BadShape, BadValue, ConfigError, GpumpcError
from gpumpc.media.preprocess import preprocess
from gpumpc.media.read import Item, Refused, read_images
from gpumpc.nn.plaintext import check_input
from gpumpc.program.plan import PlanRecord

Array = npt.NDArray[np.float64]
Images = npt.ArrayLike | Sequence[str | os.PathLike[str]]
PARAMETERS = ("client", "config", "plan", "progress")
READY_S = 4.0


class SecureFeatureExtractor:
    """A scikit-learn transformer from images to a network's features, computed on shares.

        extractor = gpumpc.SecureFeatureExtractor(config="client.toml", plan="plan")
        make_pipeline(extractor, LogisticRegression()).fit(images, labels)

    The servers see neither images nor features, and keep nothing. The features are revealed to this
    user, who trains on them in the clear; the transformer itself learns nothing from data.

    Give a connected `client`, or `config` and `plan`: then a connection is made when it is first
    needed, and kept until `close` or the end of a `with` block. A clone shares a given client.

    Args:
        client: made by `gpumpc.connect`.
        config: the client's TOML file, or a ClientConfig read from it.
        plan: the folder of plan.json, or a `Plan`.
        progress: is called with (done, of) while batches are computed.
    """

    def __init__(
        self,
        client: Client | None = None,
        config: str | Path | ClientConfig | None = None,
        plan: AnyPlan | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        # scikit-learn wants parameters kept as they were given: all checks come later.
        self.client, self.config, self.plan, self.progress = client, config, plan, progress
        self._connection: Client | None = None

    def __repr__(self) -> str:
        given = [name for name in PARAMETERS if getattr(self, name) is not None]
        return f"SecureFeatureExtractor({', '.join(given)})"

    # what scikit-learn asks of a transformer

    def fit(self, X: Images, y: object = None) -> SecureFeatureExtractor:
        """Check the images, like `transform`, against the plan; nothing is learned or sent."""
        self._values(X)
        return self

    def transform(self, X: Images) -> Array:
        """Private features of images, (N, d).

        Args:
            X: preprocessed images (N, H, W, C), or a list of N paths of image files with one image
                each, to which the plan's preprocessing is applied.

        Raises:
            BadShape, BadValue, OutOfRange: images that the plan does not admit, before anything is
                sent.
            UnreadableImage, MissingFile: a file that gives no image.
            ConfigError: neither a client nor a configuration with a plan was given.
            WireError, ShareError and others of `Client.run`.
        """
        values = self._values(X)
        return self._on_shares(self._connected(), values).reshape(len(values), -1)

    def fit_transform(self, X: Images, y: object = None, **fit_params: object) -> Array:
        """`fit`, then `transform`."""
        return self.transform(X)

    def get_feature_names_out(self, input_features: object = None) -> npt.NDArray[np.object_]:
        """Names of the features."""
        graph = self._plan().graph
        count = math.prod(graph.shapes()[graph.output.name])
        return np.array([f"secure{index}" for index in range(count)], dtype=object)

    def get_params(self, deep: bool = True) -> dict[str, object]:
        """The arguments of the constructor."""
        return {name: getattr(self, name) for name in PARAMETERS}

    def set_params(self, **params: object) -> SecureFeatureExtractor:
        """Change constructor arguments and end a connection made from them. Raises BadValue."""
        unknown = sorted(set(params) - set(PARAMETERS))
        if unknown:
            what, why = f"there is no parameter '{unknown[0]}'", "the constructor has none"
            raise BadValue(what, why, f"use {', '.join(PARAMETERS)}")
        self.close()
        for name, value in params.items():
            setattr(self, name, value)
        return self

    def __sklearn_clone__(self) -> SecureFeatureExtractor:
        # A copy of the arguments would copy a client's sockets and keys.
        return SecureFeatureExtractor(self.client, self.config, self.plan, self.progress)

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __sklearn_tags__(self) -> object:
        # Only scikit-learn calls this, so it is there.
        from sklearn.utils import InputTags, Tags, TargetTags, TransformerTags

        return Tags(
            estimator_type="transformer",
            target_tags=TargetTags(required=False),
            transformer_tags=TransformerTags(),
            input_tags=InputTags(two_d_array=False, three_d_array=False, string=True),
            requires_fit=False,
        )

    def __getstate__(self) -> dict[str, object]:
        # A worker process makes a connection of its own; two processes cannot share one.
        return {**self.__dict__, "_connection": None}

    # the connection

    def __enter__(self) -> SecureFeatureExtractor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection that was made here; a given client stays open. Safe to call twice."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _connected(self) -> Client:
        if self.client is not None:
            return self.client
        if self._connection is None:
            self._connection = self._connect()
        return self._connection

    def _connect(self) -> Client:
        if self.config is None:
            why = "neither client nor config was given"
            raise ConfigError("the servers cannot be reached", why, "pass config='client.toml'")
        client = connect(self.config, self._plan())
        try:
            client.wait_ready(READY_S)
        except BaseException:
            client.close()
            raise
        return client

    def _on_shares(self, client: Client, values: Array) -> Array:
        items = client.share(values)
        try:
            features = client.run(items, self.progress).reveal()
        except BaseException:
            # The first error is the one to tell; a lost connection cannot delete either.
            with contextlib.suppress(GpumpcError):
                client.delete(items)
            raise
        client.delete(items)
        return features

    # images

    def _plan(self) -> PlanRecord:
        if self.client is not None:
            return self.client.plan
        if self.plan is None:
            raise ConfigError(
                "there is no plan", "neither client nor plan was given", "pass plan='FOLDER'"
            )
        return record_of(self.plan)

    def _values(self, X: Images) -> Array:
        """The array to share: (N, H, W, C), N >= 1, in the plan's range."""
        plan = self._plan()
        if isinstance(X, (str, os.PathLike)):
            raise BadValue(f"'{X}' is one path", "a list of images is transformed", f"pass ['{X}']")
        paths = _paths_in(X)
        images = self._from_files(plan, paths) if paths else cast(npt.ArrayLike, X)
        values = check_input(plan.graph.input, images)
        if not len(values):
            raise BadShape("there is no image", "the list is empty", "pass at least one")
        return values

    def _from_files(self, plan: PlanRecord, wanted: list[Path]) -> Array:
        recipe = plan.preprocessing
        if recipe is None:
            what = f"plan '{plan.name}' does not say how images are preprocessed"
            why = "it was compiled without a recipe"
            raise ConfigError(what, why, "pass arrays, or compile it with preprocessing=")
        items: list[Item] = []
        for found in read_images(wanted, recipe):
            if isinstance(found, Refused):
                raise found.error()
            items.append(found)
        if [item.path for item in items] != wanted:
            raise BadShape(
                f"{len(wanted)} paths hold {len(items)} images",
                "one of them is a folder, or a file of several images, and rows would no longer "
                "match labels",
                "pass one file an image, or arrays",
            )
        return preprocess(np.stack([item.pixels for item in items]), recipe)


def _paths_in(X: Images) -> list[Path]:
    """The paths that a list of paths holds; none where X holds anything else."""
    if isinstance(X, np.ndarray) and X.dtype.kind not in "UO":
        return []
    if not isinstance(X, (list, tuple, np.ndarray)):
        return []
    return [Path(x) for x in X] if all(isinstance(x, (str, os.PathLike)) for x in X) else []
