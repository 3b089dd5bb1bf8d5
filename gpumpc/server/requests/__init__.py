"""Clients' requests: their handler, and a class for each record of `gpumpc.messages`."""
