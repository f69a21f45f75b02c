"""What the commands in scripts/ run, as ``python -m tools.…``; none of it serves, and none of it is in a Bento."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
"""The repository."""
