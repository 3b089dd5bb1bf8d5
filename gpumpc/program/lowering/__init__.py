"""graph + params -> program: which steps a layer becomes, and how many bits each value has."""

from gpumpc.program.lowering.network import compile_program

__all__ = ["compile_program"]
