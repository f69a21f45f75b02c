"""Where whole pictures are worked on: threads, processes that can be killed, and the memory they may take."""
