"""The requests of clients: a class for each, and the handler that receives them."""
