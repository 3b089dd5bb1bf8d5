"""Bytes between processes: no arithmetic."""
