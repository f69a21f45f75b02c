"""BentoML: our declarations to it, our corrections of it, and the one file that knows its internals."""
