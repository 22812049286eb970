"""Recording to numbers over time, and findings in words."""
