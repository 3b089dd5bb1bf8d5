"""Which operators and networks of torch can be evaluated on shares, how exactly, at what cost."""
