"""Parts of the NumPy backend, which is the definition of the others."""
