"""Numbers to bytes to files: the only place that touches the disk."""
