"""What each operator does to the axes of its tensors, one file per family of operators."""
