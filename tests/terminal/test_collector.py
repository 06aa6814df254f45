"""What is imported is not gone through for garbage: by a command never, in a user's program as the user has it.

Each test has a process of its own: the collector is one for all threads, and others of the tests' process import too.
"""

from __future__ import annotations

import subprocess
import sys

SELDOM = """
import gc, sys
from types import ModuleType
from mtexp.collector import collector_off, of_a_command

gc.set_threshold(700, 10)
with collector_off():
    sys.modules["new"] = ModuleType("new")
    imported = [[] for _ in range(100)]
print("frozen in a user's program:", gc.get_freeze_count() > 0)
with of_a_command():
    print("seldom:", gc.get_threshold()[0] > 700)
    with collector_off():
        print("off:", not gc.isenabled())
        sys.modules["newer"] = ModuleType("newer")
    print("on:", gc.isenabled())
    print("frozen in a command:", gc.get_freeze_count() >= len(imported))
print("as before:", gc.get_threshold()[:2] == (700, 10))
"""

FREED = """
import gc, weakref
from mtexp.collector import collector_off, of_a_command

class Left:
    pass

with of_a_command():
    with collector_off():
        left = Left()
        left.itself, freed = left, weakref.ref(left)
        del left
    gc.collect()
    print("freed:", freed() is None)
"""


def answers(code: str) -> dict[str, bool]:
    """What a program prints, one answer a line."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    return {name: value == "True" for name, value in (line.split(": ") for line in done.stdout.splitlines())}


def test_a_command_looks_for_garbage_seldom_and_never_at_what_it_imported() -> None:
    assert answers(SELDOM) == {
        "frozen in a user's program": False,
        "seldom": True,
        "off": True,
        "on": True,
        "frozen in a command": True,
        "as before": True,
    }


def test_garbage_of_a_command_is_freed_where_nothing_was_imported() -> None:
    """Every point of a sweep opens the store: what was garbage then would stay until the sweep ends."""
    assert answers(FREED) == {"freed": True}
