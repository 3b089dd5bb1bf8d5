"""Public functions of one shared number."""
