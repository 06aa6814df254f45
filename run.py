"""The front door: ``python run.py -m mix=enc_only,dec_only,mixed``; ``python run.py -h`` lists what there is."""

import os
import signal
import sys


def main() -> int:
    """Run the command line, or end at once at a signal while nothing but imports has happened."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    kept = {number: own for number, own in kept.items() if own in (signal.SIG_DFL, signal.default_int_handler)}
    for number in kept:
        signal.signal(number, _end)
    from mtexp.output import enter
    from mtexp.terminal.early import main

    for number, own in kept.items():
        signal.signal(number, own)
    return enter(main)


def _end(number: int, frame: object) -> None:
    why = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
    try:
        os.write(2, f"Interrupted by {why}.\n".encode())
    finally:
        os._exit(128 + number)


if __name__ == "__main__":  # the workers of a launcher may import this file again
    try:
        sys.exit(main())
    except KeyboardInterrupt:  # before it was entered
        sys.exit(130)
