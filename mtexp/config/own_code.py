"""Code of the user as a tenant: where its module is, and what names it. May touch: the source files that it finds.

Nothing is imported here: the tenant's own process does that.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache, lru_cache
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

from mtexp.config.checks import nearest
from mtexp.config.schema import TenantConfig
from mtexp.errors import ConfigError, Misplaced
from mtexp.spec import ModelSpec, RunSpec, WorkloadSpec

_TARGET = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
_MOST_FILES = 2000
_ALLOWED = "package.module:factory, found from the current folder or PYTHONPATH"


def own_model(key: str, tenant: TenantConfig, workload: WorkloadSpec) -> ModelSpec:
    """Return the model of an entry with ``target``: its code, named by its source and the packages that it imports.

    Raises:
        ConfigError: There is no such module, or the entry also says that it is a model of another kind.
    """
    if tenant.architecture or tenant.config:
        remedy = f"Leave {key}.architecture, shape and config out."
        raise Misplaced(f"{key}.target", tenant.target, "code of your own has no architecture", remedy)
    if workload.kind != "forward":
        remedy = f"Its factory says what a request is: set {key}.workload=forward."
        raise ConfigError("workload", workload.kind, f"forward for {tenant.name}", remedy)
    _check_params(key, tenant.params)
    found = locate(f"{key}.target", tenant.target)
    return ModelSpec(
        name=tenant.name,
        role="custom",
        architecture=tenant.target,
        target=tenant.target,
        params=tenant.params,
        code=named(found),
        code_path=str(found.root),
    )


def imported(specs: Iterable[RunSpec]) -> Iterator[str]:
    """Sentences that say which code of the user will be imported by tenants of ``specs``."""
    for tenant in (tenant for spec in specs for tenant in spec.tenants if tenant.model.target):
        model = tenant.model
        module = model.target.partition(":")[0]
        yield f"tenants of {model.name} import {module} from {model.code_path} (source {model.code['source']})"


class Located:
    """A module that was found and not imported."""

    def __init__(self, root: Path, file: Path, top: Path) -> None:
        self.root, self.file, self.top = root, file, top
        """``root``: the folder on the search path; ``top``: the file or folder of the top-level module in it."""


def locate(key: str, target: str) -> Located:
    """Return where the module of ``target`` is, without importing it or a package around it.

    Raises:
        ConfigError: It is not ``package.module:factory``, or there is no such module.
    """
    if not _TARGET.fullmatch(target):
        raise ConfigError(key, target, _ALLOWED, "Write the module with dots, a colon, and the name of the factory.")
    module, _, factory = target.partition(":")
    found = locate_module(key, target, module)
    _check_factory(key, target, found.file, factory)
    return found


def locate_module(key: str, value: str, module: str) -> Located:
    """Return where ``module`` is, without importing it or a package around it.

    Raises:
        ConfigError: There is no such module; ``key`` and ``value`` are what asked for it.
    """
    path: list[str] = [str(Path.cwd()), *(entry for entry in sys.path if entry)]
    spec: ModuleSpec | None = None
    top: ModuleSpec | None = None
    parts = module.split(".")
    for number in range(len(parts)):
        try:
            spec = PathFinder.find_spec(".".join(parts[: number + 1]), path)
        except KeyError as error:  # looks for the package around it among those that are imported
            remedy = f"Add an empty __init__.py to the folder {parts[number]}, or set PYTHONPATH to the module's own."
            raise ConfigError(key, value, "a module in packages that have an __init__.py", remedy) from error
        if spec is None or (number + 1 < len(parts) and not spec.submodule_search_locations):
            missing = ".".join(parts[: number + 1])
            raise ConfigError(key, value, _ALLOWED, f"There is no module {missing}: correct it, or set PYTHONPATH.")
        top = top or spec
        path = list(spec.submodule_search_locations or ())
    assert spec is not None
    assert top is not None
    if spec.origin is None or not spec.origin.endswith(".py"):
        raise ConfigError(key, value, "a module that is a .py file", f"{module} is none: name the module inside it.")
    file = Path(spec.origin)
    home = Path(next(iter(top.submodule_search_locations))) if top.submodule_search_locations else Path(str(top.origin))
    return Located(home.parent, file, home)


def _check_factory(key: str, target: str, file: Path, factory: str) -> None:
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError, OSError) as error:
        raise ConfigError(key, target, "a module that Python can read", f"{file}: {error}.") from error
    names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    others = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    others |= {node.asname or node.name for node in ast.walk(tree) if isinstance(node, ast.alias)}
    if factory not in names | others and "*" not in others:
        remedy = f"{file} has no {factory}. {nearest(factory, names)}".strip()
        raise ConfigError(key, target, f"a function of the module: {', '.join(sorted(names)) or 'none'}", remedy)


def named(found: Located) -> dict[str, Any]:
    """What names the code: a hash of its source, and the versions of the distributions that it imports."""
    files = sorted(found.top.rglob("*.py"))[:_MOST_FILES] if found.top.is_dir() else [found.top]
    digest = hashlib.sha256()
    names: set[str] = set()
    for file in files:
        text = file.read_bytes()
        digest.update(f"{file.relative_to(found.root)}\0".encode() + text + b"\0")
        names |= _imports(text)
    versions = {}
    for name in sorted(names - {"torch", "transformers"}):  # the environment of every record has these
        for distribution in distributions().get(name, ()):
            versions[distribution] = importlib.metadata.version(distribution)
    return {"source": digest.hexdigest()[:16], "packages": versions}


@cache
def distributions() -> Mapping[str, list[str]]:
    """Installed distributions by the top-level modules that they bring; finding them takes a quarter of a second."""
    return importlib.metadata.packages_distributions()


@lru_cache(_MOST_FILES)  # of every point of a sweep the same files are read
def _imports(text: bytes) -> set[str]:
    """Top-level modules that a source file imports; none of one that is no Python."""
    try:
        nodes = list(ast.walk(ast.parse(text)))
    except (SyntaxError, ValueError):
        return set()
    names = {alias.name.partition(".")[0] for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return names | {
        (node.module or "").partition(".")[0] for node in nodes if isinstance(node, ast.ImportFrom) and not node.level
    }


def _check_params(key: str, params: Mapping[str, Any]) -> None:
    taken = {"device", "dtype", "batch_size", "seq_len", "seed"}
    for name in params:
        if name in taken:
            raise ConfigError(f"{key}.params.{name}", params[name], f"none of {', '.join(sorted(taken))}", "Rename it.")
    try:
        json.dumps(params, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{key}.params", "(not plain data)", "numbers, text, lists, mappings", f"{error}.") from error
