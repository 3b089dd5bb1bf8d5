"""Verbs of those who run the servers and the dealer."""
