"""Recording to browser: server, static page, notebook widget."""
