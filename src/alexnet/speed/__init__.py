"""This machine: what it has and lacks, how fast it trains and applies networks, and what it could do at most."""
