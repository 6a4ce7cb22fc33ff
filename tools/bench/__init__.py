"""Benches of a running node against redis-server in the same run: ratios, checkpoints, memory, start.

A bench reports what it measured with the machine's state beside it; it never passes or fails a test.
"""
