"""Programs: owner, server, dealer, user."""
