"""Arithmetic on one machine: no party, no socket."""
