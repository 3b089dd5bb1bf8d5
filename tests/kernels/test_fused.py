"""Operations of several steps in one kernel, on every device."""

from tests.kernels import fused
from tests.ring.adopted import adopt

adopt(globals(), fused)
