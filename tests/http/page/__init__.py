"""The page at ``/``, used by people: with a mouse, with fingers, by keyboard."""
