"""What the two servers and the dealer run of a program: sessions, batches, corrections.

No client, no socket loop.
"""
