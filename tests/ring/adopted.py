"""Tests that several modules run on backends of their own: written once, in a helper module, and
adopted by test modules with a fixture `backend`.
"""

from types import ModuleType
from typing import Any


def adopt(namespace: dict[str, Any], module: ModuleType) -> None:
    """Put every test of the helper module into a test module's namespace."""
    tests = {name: test for name, test in vars(module).items() if name.startswith("test_")}
    assert tests and not tests.keys() & namespace.keys()
    namespace.update(tests)
