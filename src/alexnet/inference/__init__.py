"""What trained networks answer: evaluation, comparison, predictions, features."""
