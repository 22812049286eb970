"""Training to store: schedule, ring, recorder."""
