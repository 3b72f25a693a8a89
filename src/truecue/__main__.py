"""`python -m truecue`, the same as `truecue`."""

from truecue.cli.main import main

if __name__ == "__main__":
    main()
