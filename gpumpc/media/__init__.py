"""Images and where they come from: client side only."""
