"""What every request passes, one noun a file; ``application.py`` puts them in order."""
