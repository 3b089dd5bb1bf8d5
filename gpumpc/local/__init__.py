"""Compile a network; run it in this process, with the three parties as threads."""
