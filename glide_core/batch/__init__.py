"""Many pictures from a list: shards that survive a kill, drawn by any number of processes."""
