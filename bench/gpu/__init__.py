"""What a GPU is needed for, in one command: `python -m bench.gpu --part NAME`; see `__main__`."""
