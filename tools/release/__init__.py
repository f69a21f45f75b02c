"""The Bento and the image."""
