"""Starts the processes of a node, watches them, and ends with them."""
