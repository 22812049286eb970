"""Many networks trained at once; second-order polishing."""
