"""The whole cluster in one thread of time: seeded schedules of kills, lost connections and changes.

`python -m bench.simulation` runs schedules and prints the seed of each that fails.
"""
