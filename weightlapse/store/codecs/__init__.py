"""Chunks: some steps of some neighbouring weights, as few bytes, exactly or within a stated bound."""
