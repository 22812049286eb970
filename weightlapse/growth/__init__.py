"""A bigger network that computes the same."""
