"""How fast this machine trains and applies networks: ours, the usual way, and what the machine could do."""
