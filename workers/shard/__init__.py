"""What a worker does with its groups: turns, checkpoints, recovery."""
