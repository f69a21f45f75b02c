"""What ``sd-inpaint doctor`` looks at: each module checks one thing before it serves, ``server`` one that serves."""
