"""The front door: ``python run.py -m mix=enc_only,dec_only,mixed``; ``python run.py -h`` lists what there is."""

import sys


def main() -> int:
    """Run the command line; the imports of it take seconds."""
    from mtexp.terminal.early import main

    return main()


if __name__ == "__main__":  # the workers of a launcher may import this file again
    try:
        from mtexp.output import enter

        sys.exit(enter(main))
    except KeyboardInterrupt:  # before it was entered
        sys.exit(130)
