"""The networks, and the run folder that holds them."""
