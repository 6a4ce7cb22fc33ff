"""Time as the logs see it: hybrid logical clocks."""
