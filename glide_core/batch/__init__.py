"""Lists of prompts: read rows, generate them in shards, on one machine or with Ray."""
