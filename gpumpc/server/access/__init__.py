"""What clients may do, how much in a day, and what the owners of the weights signed."""
