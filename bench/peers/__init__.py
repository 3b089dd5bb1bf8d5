"""The engine beside CrypTen and SPU: the same workloads, the same inputs, interleaved, one table.

`workloads`, `traffic`, `run_crypten` and `run_spu` are run by each peer's own Python and import
nothing of gpumpc.
"""
