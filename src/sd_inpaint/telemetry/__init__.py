"""What an operator sees of the inside: metrics and spans."""
