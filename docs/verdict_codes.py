"""The page of verdict codes, made from the code by ``make docs``: every ``Finding(...)`` that mtexp constructs,
and every ``notes.add(...)`` of the proofs of sharing modes.

A value that is only known in a run stands as an ellipsis in its message.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[1] / "mtexp"
_LEVELS = ("invalid", "warning", "note")
_UNKNOWN = "…"
_HEAD = """# Verdict codes

What a run may find, by code. One finding of level *invalid* makes the run INVALID: it enters no average, and
`resume=true rerun_invalid=true` runs it again. Warnings and notes leave it VALID. Where a code has two levels, it
depends on how much it costs, or on a key such as `measure.foreign`. The terminal prints a line a finding;
`verbose=true` and `record.json` have all of it; in MLflow the tag `mtexp.verdict_reasons` has the sentences.
… stands for what a run fills in.

| Code | Level | What was found | What to do |
|---|---|---|---|
"""


@dataclass(frozen=True)
class Code:
    """One code: its levels, and a message and a remedy of each place that says it."""

    name: str
    levels: tuple[str, ...]
    messages: tuple[str, ...]
    remedies: tuple[str, ...]


def page() -> str:
    """Return the page of the verdict codes as Markdown."""
    rows = []
    for code in codes():
        found, remedies = (" *Or:* ".join(texts) for texts in (code.messages, code.remedies))
        cells = (f"`{code.name}`", ", ".join(code.levels), found or "what the run says", remedies)
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n")
    return _HEAD + "".join(rows)


def codes() -> list[Code]:
    """Every code that a finding may have, the gravest first, then by name."""
    found: dict[str, tuple[set[str], dict[str, None], dict[str, None]]] = {}
    paths = [p for p in sorted(SOURCE.rglob("*.py")) if not {"analysis", "testing"} & {*p.relative_to(SOURCE).parts}]
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in paths]
    constants = {name: values for tree in trees for name, values in _assigned(tree.body).items()}
    for tree in trees:
        for level, code, message, remedy in _findings(tree, constants):
            for name in (text for text in code if text[0] != _UNKNOWN):
                levels, messages, remedies = found.setdefault(name, (set(), {}, {}))
                levels.update(part for part in level if part in _LEVELS)
                messages |= dict.fromkeys(text for text in message if text != _UNKNOWN)
                remedies |= dict.fromkeys(text for text in remedy if text not in ("", _UNKNOWN))
    made = [
        Code(name, tuple(level for level in _LEVELS if level in levels or not levels), tuple(messages), tuple(remedies))
        for name, (levels, messages, remedies) in found.items()
    ]
    return sorted(made, key=lambda code: (_LEVELS.index(code.levels[0]), code.name))


def _findings(
    tree: ast.Module, constants: dict[str, list[ast.expr]]
) -> Iterator[tuple[list[str], list[str], list[str], list[str]]]:
    """Level, code, message and remedy of each ``Finding(...)`` of a module, with every text that each may be."""
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and _order(node)]
    before = 0
    for call in sorted(calls, key=lambda node: node.lineno):
        arguments: dict[str, ast.expr] = {"level": ast.Constant("invalid")}  # what a proof adds, unless it says other
        arguments |= dict(zip(_order(call), call.args, strict=False))
        arguments |= {word.arg: word.value for word in call.keywords if word.arg}
        if "code" not in arguments:  # Finding(**data): one that was read from a record
            continue
        names = dict(constants)
        for function in functions:
            if function.lineno <= call.lineno <= (function.end_lineno or 0):
                above = [node for node in ast.walk(function) if getattr(node, "lineno", call.lineno) < call.lineno]
                names |= _assigned(above) | _assigned([node for node in above if getattr(node, "lineno", 0) > before])
        before = call.lineno
        level, code, message, remedy = (
            _texts(arguments[name], names) if name in arguments else [""]
            for name in ("level", "code", "message", "remedy")
        )
        yield level, code, message, remedy


def _order(call: ast.Call) -> tuple[str, ...]:
    """What the arguments of a call are, if it makes a finding; else empty."""
    function = call.func
    if isinstance(function, ast.Name) and function.id == "Finding":
        return ("level", "code", "message", "remedy")
    proof = (
        isinstance(function, ast.Attribute) and function.attr == "add" and getattr(function.value, "id", "") == "notes"
    )
    return ("code", "message", "remedy") if proof else ()


def _assigned(nodes: Sequence[ast.AST]) -> dict[str, list[ast.expr]]:
    """Names and what is assigned to them."""
    found: dict[str, list[ast.expr]] = {}
    for node in nodes:
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    found.setdefault(target.id, []).append(node.value)
                elif isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                    for name, value in zip(target.elts, node.value.elts, strict=False):
                        if isinstance(name, ast.Name):
                            found.setdefault(name.id, []).append(value)
    return found


def _texts(node: ast.expr, names: dict[str, list[ast.expr]]) -> list[str]:
    """Every text that an expression may be; what is not known is an ellipsis."""
    if isinstance(node, ast.Constant):
        return [" ".join(str(node.value).split())]
    if isinstance(node, ast.IfExp):
        return [*_texts(node.body, names), *_texts(node.orelse, names)]
    called = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
    if called in names:
        rest = {name: value for name, value in names.items() if name != called}
        return [text for value in names[called] for text in _texts(value, rest)]
    if isinstance(node, ast.JoinedStr):
        text = ""
        for part in node.values:
            if isinstance(part, ast.Constant):
                text += str(part.value)
            elif isinstance(part, ast.FormattedValue):
                known = _texts(part.value, names)
                text += known[0] if len(known) == 1 else _UNKNOWN
        return [re.sub(rf"{_UNKNOWN}(?: ?{_UNKNOWN})+", _UNKNOWN, " ".join(text.split()))]
    return [_UNKNOWN]
