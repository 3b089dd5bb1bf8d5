"""Smooth functions of shared values from one opening, by tables of local polynomials."""
