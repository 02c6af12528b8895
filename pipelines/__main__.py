"""`python -m pipelines` is `gam-kg`."""

from .cli import main

if __name__ == "__main__":
    main()
