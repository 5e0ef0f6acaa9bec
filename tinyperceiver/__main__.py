"""`python -m tinyperceiver` is the command line, too; torchrun starts it so."""

from tinyperceiver.cli.main import main

__all__ = ["main"]

if __name__ == "__main__":
    main()
