"""``python -m sd_inpaint`` is ``sd-inpaint``."""

from sd_inpaint.cli.application import main

if __name__ == "__main__":
    main()
