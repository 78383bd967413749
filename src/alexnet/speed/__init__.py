"""How fast this machine trains and applies networks: ours, the baseline, and what the machine could do."""
