"""Correlated randomness: derived, dealt, kept, spent once."""
