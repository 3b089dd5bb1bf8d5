"""A server of the benchmark whose selection fails in the first two batches."""

from gpumpc.errors import SelectionFailed
from gpumpc.measure.benchmark_party import ServerParty, serve
from gpumpc.ring.backend import Words


class UnluckyParty(ServerParty):
    """Fails when the product does: both servers at once."""

    def evaluate(self, batch_index: int) -> Words:
        """As `ServerParty`."""
        result = super().evaluate(batch_index)
        if batch_index < 2:
            raise SelectionFailed("an unlucky sample")
        return result


if __name__ == "__main__":
    serve(UnluckyParty)
