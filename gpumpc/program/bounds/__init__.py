"""Which values may occur, and whether each fits its ring."""
