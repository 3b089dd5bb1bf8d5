"""Networks in the clear: layers, import from torch, evaluation. No cryptography."""
