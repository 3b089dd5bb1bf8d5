from gpumpc.offline.memory_pool import MemoryPool
from gpumpc.offline.pool import Pool

A, B = bytes(range(16)), bytes(16)
AnyPool = Pool | MemoryPool


def put(pool: AnyPool, session: bytes, batch_index: int, *pieces: bytes) -> None:
    writer = pool.writer(session, batch_index, sum(map(len, pieces)))
    for piece in pieces:
        writer.append(piece)
    writer.commit()
