"""The program that `make demo` runs, and the report it writes."""
