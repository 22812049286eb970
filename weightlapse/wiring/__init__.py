"""Which axes of which weights are the same neurons."""
