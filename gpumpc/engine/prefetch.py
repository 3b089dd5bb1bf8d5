"""What a server computes of a batch before its input is there: as much as there is time for."""

from collections.abc import Mapping

from gpumpc.engine.party import Party
from gpumpc.params import Cipher
from gpumpc.program.program import Program
from gpumpc.ring.backend import Words
from gpumpc.session import PartyRandomness, StaticWeight

# A plan that would need more memory for its prefetched words computes them in their turn.
_MAX_PREPARED_BYTES = 1 << 30


class _Preparation:
    """The words by step, growing until the batch begins (`ended`)."""

    def __init__(self, session_id: bytes, batch_index: int) -> None:
        self.session_id, self.batch_index = session_id, batch_index
        self.words: dict[str, Words] = {}
        self.ended = False


class Prefetcher:
    """Prepares one batch of a program at a time, in any thread; nothing leaves the server."""

    def __init__(self, party: Party, program: Program, cipher: Cipher) -> None:
        self._party, self._program, self._cipher = party, program, cipher
        self._backend = party.backend.fork() if party.executor else party.backend
        self._preparation = _Preparation(b"", 0)

    def prepare(
        self, session_id: bytes, batch_index: int, weights: Mapping[str, StaticWeight]
    ) -> None:
        """Compute what needs no input of a batch, until the batch begins or all is there.

        Args:
            session_id: the one that the weights belong to; another may have been opened meanwhile.
        """
        if self._program.prepared_bytes > _MAX_PREPARED_BYTES:
            return
        self._preparation = preparation = _Preparation(session_id, batch_index)
        tree = self._party.seed_tree(session_id, batch_index)
        draws = PartyRandomness(self._party.number, self._backend, self._cipher, tree, weights)
        for step, words in self._program.prepare(draws):
            if preparation.ended:
                return
            self._backend.synchronize()  # another thread reads it
            preparation.words[step] = words

    def take(self, session_id: bytes, batch_index: int) -> dict[str, Words]:
        """End the preparation; the words by step if they are those of this batch."""
        preparation, self._preparation = self._preparation, _Preparation(b"", 0)
        preparation.ended = True
        matches = (preparation.session_id, preparation.batch_index) == (session_id, batch_index)
        return {**preparation.words} if matches else {}

    def stop(self) -> None:
        """End the preparation: a process that stops waits for it."""
        self._preparation.ended = True
