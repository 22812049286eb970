"""A model in any framework as named arrays, and back; one file per framework."""
