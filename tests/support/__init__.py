"""What tests lend each other."""
