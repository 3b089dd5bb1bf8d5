"""The dealer's process."""
