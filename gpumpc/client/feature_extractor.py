"""Private features as a step of a scikit-learn pipeline.

    make_pipeline(SecureFeatureExtractor(config="client.toml", plan="plan"),
    LogisticRegression()).fit(images, labels)

The features are revealed to this user, who trains on them in the clear; the servers see neither
images nor features. scikit-learn is not imported here: the class follows its conventions, and works
without it.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gpumpc.deploy.config import ClientConfig, load_client
from gpumpc.errors import BadShape, BadValue, ConfigError, GpumpcError
from gpumpc.media.preprocess import preprocess
from gpumpc.media.read import Item, Refused, read_images
from gpumpc.nn.plaintext import check_input
from gpumpc.program import plan as plan_files
from gpumpc.program.plan import PlanRecord

if TYPE_CHECKING:
    from gpumpc.client.client import Client

Array = npt.NDArray[np.float64]
PARAMETERS = ("client", "config", "plan", "progress")
READY_S = 4.0


class SecureFeatureExtractor:
    """A transformer from images to the private network's outputs; it learns nothing from data.

    Give a `client` that is connected, or `config` and `plan`, from which a connection is made when
    it is first needed and kept until `close`, or to the end of a `with` block. A clone shares a
    given client.

    Args:
        client: a connected `Client`.
        config: a client's TOML file, or what was read from it.
        plan: a folder with plan.json, or what was read from it.
        progress: hears (done, of) while batches are computed.
    """

    def __init__(
        self,
        client: Client | None = None,
        config: str | Path | ClientConfig | None = None,
        plan: str | Path | PlanRecord | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        # scikit-learn wants parameters kept as they were given: all checks come later.
        self.client, self.config, self.plan, self.progress = client, config, plan, progress
        self._connection: Client | None = None

    def __repr__(self) -> str:
        given = [name for name in PARAMETERS if getattr(self, name) is not None]
        return f"SecureFeatureExtractor({', '.join(given)})"

    # what scikit-learn asks of a transformer

    def fit(self, X: Any, y: Any = None) -> SecureFeatureExtractor:
        """Check the images against the plan; nothing is learned and nothing is sent.

        Raises like `transform`.
        """
        self._values(X)
        return self

    def transform(self, X: Any) -> Array:
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

    def fit_transform(self, X: Any, y: Any = None, **fit_params: Any) -> Array:
        """`fit`, then `transform`."""
        return self.transform(X)

    def get_feature_names_out(self, input_features: Any = None) -> npt.NDArray[np.object_]:
        """Names of the features."""
        graph = self._plan().graph
        count = math.prod(graph.shapes()[graph.output.name])
        return np.array([f"secure{index}" for index in range(count)], dtype=object)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {name: getattr(self, name) for name in PARAMETERS}

    def set_params(self, **params: Any) -> SecureFeatureExtractor:
        """Change arguments of the constructor; a connection made from the old ones is ended.

        Raises BadValue.
        """
        unknown = sorted(set(params) - set(PARAMETERS))
        if unknown:
            raise BadValue(
                f"there is no parameter '{unknown[0]}'", hint=f"use {', '.join(PARAMETERS)}"
            )
        self.close()
        for name, value in params.items():
            setattr(self, name, value)
        return self

    def __sklearn_clone__(self) -> SecureFeatureExtractor:
        # A copy of the arguments would copy a client's sockets and keys.
        return SecureFeatureExtractor(**self.get_params())

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __sklearn_tags__(self) -> Any:
        # Only scikit-learn calls this, so it is there.
        from sklearn.utils import InputTags, Tags, TargetTags, TransformerTags

        return Tags(
            estimator_type="transformer",
            target_tags=TargetTags(required=False),
            transformer_tags=TransformerTags(),
            input_tags=InputTags(two_d_array=False, three_d_array=False, string=True),
            requires_fit=False,
        )

    def __getstate__(self) -> dict[str, Any]:
        # A worker process makes a connection of its own; two processes cannot share one.
        return {**self.__dict__, "_connection": None}

    # the connection

    def __enter__(self) -> SecureFeatureExtractor:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
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
        from gpumpc.client.client import connect

        if self.config is None:
            raise ConfigError(
                "there is no way to the servers",
                "neither client nor config was given",
                "pass config='client.toml'",
            )
        config = (
            self.config if isinstance(self.config, ClientConfig) else load_client(Path(self.config))
        )
        client = connect(config, self._plan())
        try:
            client.wait_ready(READY_S)
        except BaseException:
            client.close()
            raise
        return client

    def _on_shares(self, client: Client, values: Array) -> Array:
        """All that is asked of the servers: share, run, reveal, delete."""
        shared = client.share(values)
        try:
            features = client.run(shared, self.progress).reveal()
        except BaseException:
            # The first error is the one to tell; a lost connection cannot delete either.
            with contextlib.suppress(GpumpcError):
                client.delete(shared)
            raise
        client.delete(shared)
        return np.asarray(features, dtype=np.float64)

    # images

    def _plan(self) -> PlanRecord:
        if self.client is not None:
            return self.client.plan
        if self.plan is None:
            raise ConfigError(
                "there is no plan",
                "neither client nor plan was given",
                "pass plan='FOLDER' with plan.json",
            )
        return self.plan if isinstance(self.plan, PlanRecord) else plan_files.load(Path(self.plan))

    def _values(self, X: Any) -> Array:
        """What is shared: (N, H, W, C), N >= 1, in the plan's range."""
        plan = self._plan()
        if isinstance(X, (str, os.PathLike)):
            raise BadValue(f"'{X}' is one path", "a list of images is transformed", f"pass ['{X}']")
        values = check_input(plan.graph.input, self._from_files(plan, X) if _are_paths(X) else X)
        if not len(values):
            raise BadShape("there is no image", "the list is empty", "pass at least one")
        return values

    def _from_files(self, plan: PlanRecord, paths: Sequence[str | os.PathLike[str]]) -> Array:
        recipe = plan.preprocessing
        if recipe is None:
            raise ConfigError(
                f"plan '{plan.name}' does not say how images are preprocessed",
                "it was compiled without a recipe",
                "pass arrays, or compile it with preprocessing=",
            )
        wanted = [Path(path) for path in paths]
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


def _are_paths(X: Any) -> bool:
    if isinstance(X, np.ndarray) and X.dtype.kind not in "UO":
        return False
    return (
        isinstance(X, (list, tuple, np.ndarray))
        and len(X) > 0
        and all(isinstance(x, (str, os.PathLike)) for x in X)
    )
