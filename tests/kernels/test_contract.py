"""Every operation of the contract, on every device."""

from tests.kernels import contract
from tests.ring.adopted import adopt

adopt(globals(), contract)
