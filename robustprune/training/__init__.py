"""Training: one loop for every stage of every network, readable from top to bottom in `loop`."""
