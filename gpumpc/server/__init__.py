"""A server process: clients' requests, the peer loop, the dealer link and the share store."""
