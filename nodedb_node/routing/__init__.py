"""Where a key lives: slot, vShard, group, worker, node."""
