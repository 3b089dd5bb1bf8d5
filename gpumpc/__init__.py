"""Neural networks evaluated on images that no server ever sees.

The owner of a model compiles it once, and can try it out within one process:

    import gpumpc, torch

    model = torch.nn.Sequential(...)  # ends in features, or in logits
    plan = gpumpc.compile(model.eval(), torch.zeros(1, 3, 64, 64), input_range=(0, 1))
    plan.save("plan")  # plan.json for every party, weights.safetensors for the owner alone
    plan.evaluate(x)  # in the clear; x: (B, 64, 64, 3), channels last, values in [0, 1]
    with plan.simulate(batch_size=8) as local:
        y = local.run(local.share(x)).reveal()  # on shares
    plan.head(weight, bias, classes=("dark", "light")).save("head")  # a linear classifier on top

Where certified bounds are too wide (`RangeTooWide`), pass `bounds=gpumpc.Calibrated(samples)`;
`params=gpumpc.Params(weights="public")` makes weights public. Then two servers and a dealer run; to
try it out, `gpumpc up --local --plan plan --plan head` runs all three here. The owner shares the
weights of each plan once: `gpumpc share-weights --config out/local/client.toml --plan plan`. A user
needs `client.toml` and `plan.json`:

    with gpumpc.connect("out/local/client.toml", "plan") as client:
        items = client.share(images)  # (B, 64, 64, 3); returns item ids
        client.extract(items)  # features stay at the servers, as shares
        features = client.features(items).reveal()  # (B, d), in the clear, for this user alone
        labels = client.classify(items, head="head")
        index = client.create_index("archive", metric="cosine")  # or "ip", "l2"
        index.add(items)
        scores, ids = index.search(items[:3], k=5)
        client.delete(items)

`SecureFeatureExtractor` is the same as a step of a scikit-learn pipeline. Every error raised on
purpose is a `GpumpcError` and says what happened, why, and what to do. What is not listed in
`__all__` is private and may change in any version.
"""

from typing import TYPE_CHECKING as _TYPE_CHECKING

from gpumpc.version import VERSION as _version

if _TYPE_CHECKING:
    from gpumpc.client.client import Client, connect
    from gpumpc.client.feature_extractor import SecureFeatureExtractor
    from gpumpc.client.index import Index
    from gpumpc.errors import GpumpcError
    from gpumpc.local.compile import Plan, compile
    from gpumpc.local.shared_tensor import SharedTensor
    from gpumpc.params import Params
    from gpumpc.program.compiler import Calibrated

__all__ = [
    "Calibrated",
    "Client",
    "GpumpcError",
    "Index",
    "Params",
    "Plan",
    "SecureFeatureExtractor",
    "SharedTensor",
    "compile",
    "connect",
]
__version__ = _version

_MODULES = {
    "Calibrated": "program.compiler",
    "Client": "client.client",
    "GpumpcError": "errors",
    "Index": "client.index",
    "Params": "params",
    "Plan": "local.compile",
    "SecureFeatureExtractor": "client.feature_extractor",
    "SharedTensor": "local.shared_tensor",
    "compile": "local.compile",
    "connect": "client.client",
}


def __getattr__(name: str) -> object:
    # Imported when first used: the process that reads a hostile image, and `gpumpc --version`,
    # import no sockets, no cryptography and no engine with the package.
    if name not in _MODULES:
        raise AttributeError(f"module 'gpumpc' has no attribute '{name}'")
    import importlib

    value = getattr(importlib.import_module(f"gpumpc.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *_MODULES]
