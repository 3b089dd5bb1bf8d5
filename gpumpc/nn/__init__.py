"""Networks: no cryptography."""
