"""``python -m widenet_cli``, and so ``accelerate launch -m widenet_cli``."""

from widenet_cli import main

if __name__ == "__main__":
    main()
