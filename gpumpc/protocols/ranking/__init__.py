"""Protocols that order values: argmax, shuffle, top-k, votes, distances."""
