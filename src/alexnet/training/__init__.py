"""Training: one run from its configuration to its test result, step by step."""
