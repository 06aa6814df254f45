"""The front door: ``python run.py -m mix=enc_only,dec_only,mixed``; ``python run.py -h`` lists what there is."""

import sys

if __name__ == "__main__":  # the workers of a launcher may import this file again
    try:
        from mtexp.output import enter, protect

        protect()  # before the seconds that the rest takes to import
        from mtexp.terminal.cli import main

        sys.exit(enter(main))
    except KeyboardInterrupt:  # while it was imported
        sys.exit(130)
