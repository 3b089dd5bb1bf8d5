"""Correlated randomness: derived, dealt, stored, spent once."""
