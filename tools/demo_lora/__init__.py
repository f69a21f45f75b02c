"""LoRAs for the demo model, trained on what it paints itself: a style, and few steps."""
