"""How well features tell labels apart: their files, metrics, a trained head. In the clear."""
