"""The fields that must be equal at all parties before the first masked byte."""

from gpumpc.program.plan import PlanRecord, plan_hash
from gpumpc.program.program import PROTOCOL_VERSION, Program
from gpumpc.version import VERSION

PACKING = "byte planes, then bit lanes"


def agreed_fields(plan: PlanRecord, program: Program) -> dict[str, str]:
    """In the order in which they are compared: those that explain a difference best come first."""
    params = plan.params
    widths = sorted(plan.widths.items())
    return {
        "gpumpc version": VERSION,
        "protocol version": str(PROTOCOL_VERSION),
        "model": plan.name,
        "ring and fraction bits": f"{params.ring_bits} and {params.frac_bits}",
        "cipher": params.cipher,
        "word packing": PACKING,
        "batch size": str(program.input.shape[0]),
        "weights": params.weights,
        "weight version": plan.weight_digest,
        "widths": " ".join(f"{name}={w.ring_bits}/{w.weight_frac}" for name, w in widths),
        "program": program.digest.hex(),
        "plan": plan_hash(plan).hex(),
    }
