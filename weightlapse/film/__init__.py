"""Recording to pictures: places, colours, plots, films."""
