"""``python -m weightlapse`` is the same program as ``weightlapse``."""

from weightlapse.cli import main

if __name__ == "__main__":
    main()
