"""`python -m lorac` is `lorac`."""

from lorac.cli import main

main()
