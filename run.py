"""The front door: ``python run.py -m mix=enc_only,dec_only,mixed``; ``python run.py -h`` lists what there is."""

import os
import signal
import sys


def main() -> int:
    """Run the command line; the imports of it take seconds."""
    from mtexp.terminal.early import main

    return main()


def _end(number: int, frame: object) -> None:
    """End at a signal at once, while nothing but imports has happened."""
    why = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
    try:
        os.write(2, f"Interrupted by {why}.\n".encode())
    finally:
        os._exit(128 + number)


if __name__ == "__main__":  # the workers of a launcher may import this file again
    try:
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        before = {n: own for n, own in before.items() if own in (signal.SIG_DFL, signal.default_int_handler)}
        for number in before:
            signal.signal(number, _end)
        import mtexp.terminal.early  # noqa: F401  main needs it, and it takes most of the time
        from mtexp.output import enter

        for number, own in before.items():
            signal.signal(number, own)
        sys.exit(enter(main))
    except KeyboardInterrupt:  # before it was entered
        sys.exit(130)
