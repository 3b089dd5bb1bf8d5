"""One script a question; the figures that issues ask for are rows of `figures.toml`."""
