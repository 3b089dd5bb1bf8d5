"""gpumpc, CrypTen and SPU on the same workloads and inputs, in turn, in one table.

`workloads`, `traffic`, `run_crypten` and `run_spu` are run by each peer's own Python and import
nothing of gpumpc.
"""
