"""Clients' commands that Python answers."""
