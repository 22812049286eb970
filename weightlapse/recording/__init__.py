"""Store to weights over time, read lazily."""
