"""What 'make demo' runs, and the report it writes."""
