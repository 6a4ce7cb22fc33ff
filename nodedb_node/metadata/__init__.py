"""What a node knows about itself and its cluster, durably."""
