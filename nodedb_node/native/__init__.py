"""Typed wrappers over the C extension, one per header."""
