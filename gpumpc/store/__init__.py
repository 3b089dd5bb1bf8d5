"""Each server's shares at rest."""
