"""An index over feature shares, and its search; `evaluation` judges features in the clear."""
