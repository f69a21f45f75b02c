"""What callers call jobs: accepted, kept over restarts, painted in the background."""
