"""Recording to pictures: layout, colours, plots, films."""
