"""Pictures and masks as bytes, arrays and boxes: no torch, no HTTP, no jobs."""
