"""`python -m pipelines` is `gam-kg`."""

from pipelines.cli import main

if __name__ == "__main__":
    main()
