"""The device's thread: canvases wait, share it step by step, and end. No torch."""
