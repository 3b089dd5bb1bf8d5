"""Campaigns against real processes: `python -m bench.evidence`; see docs/evidence.md."""
