"""One of the two servers: requests of clients, the loop with the other server, shares at rest."""
