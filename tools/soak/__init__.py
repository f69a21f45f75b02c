"""A long, mixed load against one server, and the checks that it leaks and loses nothing: see scripts/soak."""
