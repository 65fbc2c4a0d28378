"""``python -m wardround``."""

from wardround.faces.cli.app import main

if __name__ == "__main__":
    main()
