"""Secure two-party evaluation of neural networks on images that no server ever sees."""

from gpumpc.client.feature_extractor import SecureFeatureExtractor
from gpumpc.cost import Cost
from gpumpc.errors import GpumpcError
from gpumpc.local.compile import Plan, compile
from gpumpc.local.simulation import LocalSession, SharedTensor
from gpumpc.params import Params
from gpumpc.program.compiler import Calibrated
from gpumpc.version import VERSION as __version__

__all__ = [
    "Calibrated",
    "Cost",
    "GpumpcError",
    "LocalSession",
    "Params",
    "Plan",
    "SecureFeatureExtractor",
    "SharedTensor",
    "__version__",
    "compile",
]
