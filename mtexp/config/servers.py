"""Servers of the user as tenants: the command and its requests, checked, and named by the files of the command.

Nothing is started here. May touch: the files that a command names, the versions of installed distributions.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import ipaddress
import json
import os
import re
import shlex
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from mtexp.config.checks import at_least, nearest, within
from mtexp.config.own_code import Located, distributions, locate_module, named
from mtexp.config.schema import Config, Profiler, SharingMode, TenantConfig
from mtexp.config.server_schema import Api, RequestConfig, ServerConfig
from mtexp.errors import ConfigError, Misplaced
from mtexp.served import PLACEHOLDERS, TEXTS, ServerSpec, names_in
from mtexp.spec import ModelSpec, RunSpec, TenantSpec, WorkloadSpec

HERE = "http://127.0.0.1:{port}"
"""Where a path is asked for."""
_METHODS = ("GET", "POST", "PUT")
_MOST_BYTES = 2**30
"""A larger file that a command names (weights) is known by its size and time."""
_PATHS = {Api.completions: "/v1/completions", Api.chat: "/v1/chat/completions", Api.embeddings: "/v1/embeddings"}
_STREAMED = (Api.completions, Api.chat)
_NO_MODEL = ("architecture", "config", "target", "shape", "params", "inputs", "model_class")


def is_server(tenant: TenantConfig) -> bool:
    """Whether an entry of the mix is a server: its role says so, or anything of ``server`` is set."""
    return tenant.server != ServerConfig() or (tenant.role is not None and tenant.role.name == "server")


def server_model(
    config: Config, key: str, tenant: TenantConfig, workload: WorkloadSpec
) -> tuple[ModelSpec, WorkloadSpec]:
    """Return the model of an entry that is a server, and its workload: ``generate`` for an API that generates.

    Raises:
        ConfigError: Something of the entry cannot be: no command, no request, a placeholder that does not exist.
    """
    asked, key = tenant.server, f"{key}.server"
    for name, low, high in (("concurrency", 0, 4096), ("warmup", 0, 100_000), ("cores", 1, 1024)):
        within(f"{key}.{name}", getattr(asked, name), low, high)
    at_least(f"{key}.ready_s", asked.ready_s, 0)
    for name in _NO_MODEL:
        if getattr(tenant, name):
            remedy = f"Leave {key.removesuffix('.server')}.{name} out."
            raise Misplaced(f"{key}.command", asked.command or "(empty)", f"a server has no {name}", remedy)
    command = _command(f"{key}.command", asked.command)
    url, body = _url(key, asked), _body(f"{key}.request", asked.request)
    _check_ready(f"{key}.ready", asked)
    _check_names(f"{key}.command", asked.command, PLACEHOLDERS)
    _check_names(f"{key}.request.url", url, PLACEHOLDERS)
    _check_names(f"{key}.request.json", body, {**PLACEHOLDERS, **TEXTS})
    server = ServerSpec(
        command=command,
        url=url,
        ready=asked.ready,
        ready_s=asked.ready_s,
        method=_method(f"{key}.request.method", asked.request.method),
        body=body,
        api="" if asked.request.api is Api.none else asked.request.api.name,
        stream=asked.request.stream or asked.request.api in _STREAMED,
        tokenizer=asked.request.tokenizer,
        concurrency=asked.concurrency,
        warmup=asked.warmup,
        cores=asked.cores,
        allow_remote=asked.allow_remote,
    )
    _check_surroundings(config, key)
    model = ModelSpec(
        name=tenant.name,
        role="server",
        architecture=Path(command[0]).name,
        code=_named(command),
        code_path=str(Path.cwd()),
        server=server,
        attn_implementation="",
    )
    return model, _workload(key, tenant, workload, server)


def start_order(config: Config, tenants: tuple[TenantSpec, ...]) -> tuple[str, ...]:
    """Return the ids of the servers among ``tenants`` in the order in which they start.

    Raises:
        ConfigError: ``mix.start_order`` does not name each of them once, or two would listen on one port.
    """
    servers = {tenant.id: tenant.model.server for tenant in tenants if tenant.model.server is not None}
    asked = [member for name in config.mix.start_order for member in _members(config, name)]
    if asked and Counter(asked) != Counter(list(servers)):
        allowed = f"each server of the mix once: {', '.join(servers) or 'it has none'}"
        raise ConfigError("mix.start_order", f"[{','.join(asked)}]", allowed, "Correct it, or leave it out.")
    places: dict[str, str] = {}
    for tenant, server in servers.items():
        place = urlsplit(server.url).netloc
        if "{port}" not in place and places.setdefault(place, tenant) != tenant:
            remedy = "Write {port} in the command and the URL: each server then gets a free one."
            raise Misplaced(
                f"mix.tenants.{tenant}.server.request.url", server.url, f"{places[place]} has this port", remedy
            )
    return tuple(asked or servers)


def _members(config: Config, name: str) -> list[str]:
    """The tenants that an entry of the mix stands for."""
    entry = config.mix.tenants.get(name)
    return [name] if entry is None or entry.count == 1 else [f"{name}_{number}" for number in range(entry.count)]


def commands(specs: Iterable[RunSpec]) -> Iterator[str]:
    """Sentences that say which commands will be run as servers of ``specs``."""
    for tenant in (tenant for spec in specs for tenant in spec.tenants):
        model = tenant.model
        if model.server is not None:
            yield f"servers of {model.name} are started in {model.code_path}: {' '.join(model.server.command)}"


# --- parts ------------------------------------------------------------------------------------------------------------


def _command(key: str, text: str) -> tuple[str, ...]:
    what = "a program that is there, and its arguments"
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ConfigError(key, text, what, f"{error}: correct the quotes.") from error
    if not words:
        raise ConfigError(key, "(empty)", "the command that starts the server", f"Set {key}.")
    program = words[0]
    if "{" not in program and shutil.which(program) is None:
        raise ConfigError(key, text, what, f"{program} is not on PATH, or may not be run: correct it.")
    return tuple(words)


def _url(key: str, server: ServerConfig) -> str:
    own, request = f"{key}.request.url", server.request
    url = request.url or _PATHS.get(request.api, "")
    if not url:
        remedy = f"Set {own}=/path or {key}.request.api=completions, chat or embeddings."
        raise ConfigError(own, "(empty)", "a path such as /v1/completions, or a whole URL", remedy)
    if url.startswith("/"):
        if "{port}" not in server.command:
            remedy = f"Write {{port}} in {key}.command, or a whole URL."
            raise ConfigError(own, url, "a whole URL where the command has no {port}", remedy)
        return HERE + url
    _check_url(own, url, allow_remote=server.allow_remote)
    if "{port}" in url and "{port}" not in server.command and not server.allow_remote:
        remedy = f"Write {{port}} in {key}.command."
        raise Misplaced(own, url, "mtexp chooses {port}, and the command of the server does not have it", remedy)
    return url


def _check_url(key: str, url: str, *, allow_remote: bool) -> None:
    parts = _split(url)
    if parts is None or parts.scheme != "http" or not parts.hostname or "@" in parts.netloc:
        raise ConfigError(key, url, "http://HOST:PORT/path, without user and password", "Correct it.")
    if not allow_remote and not _is_loopback(parts.hostname):
        switch = f"{key.partition('.server')[0]}.server.allow_remote=true"
        remedy = f"mtexp measures this host's devices. If that is meant, set {switch}."
        raise ConfigError(key, url, "a URL of this host (127.0.0.1, localhost)", remedy)


def _split(url: str) -> SplitResult | None:
    """The parts of a URL, its port checked; None for what is no URL."""
    try:
        parts = urlsplit(url.replace("{port}", "1"))
        _ = parts.port
    except ValueError:
        return None
    return parts


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_ready(key: str, server: ServerConfig) -> None:
    if server.ready.startswith(("http://", "https://", "/")):
        url = HERE + server.ready if server.ready.startswith("/") else server.ready
        _check_url(key, url, allow_remote=server.allow_remote)
        _check_names(key, server.ready, PLACEHOLDERS)
        return
    try:
        re.compile(server.ready)
    except re.error as error:
        raise ConfigError(key, server.ready, "a URL, or a regular expression", f"{error}: correct it.") from error


def _method(key: str, method: str) -> str:
    if method.upper() not in _METHODS:
        raise ConfigError(key, method, list(_METHODS), "Choose one of them.")
    return method.upper()


def _body(key: str, request: RequestConfig) -> str:
    """The JSON of a request; the user's own fields replace those of the API."""
    bodies: Mapping[Api, dict[str, Any]] = {
        Api.completions: {"prompt": "{text}", "max_tokens": "{new_tokens}", "temperature": 0, "stream": True},
        Api.chat: {
            "messages": [{"role": "user", "content": "{text}"}],
            "max_tokens": "{new_tokens}",
            "temperature": 0,
            "stream": True,
        },
        Api.embeddings: {"input": "{texts}"},
    }
    body = {"model": request.model, **bodies[request.api]} if request.api in bodies else {}
    body |= request.json
    try:
        return json.dumps(body, allow_nan=False) if body else ""
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{key}.json", "(not plain data)", "numbers, text, lists, mappings", f"{error}.") from error


def _check_names(key: str, text: str, known: Mapping[str, str]) -> None:
    for name in names_in(text):
        if name not in known:
            remedy = f"{nearest(name, known)} A brace that is meant as one is written twice.".strip()
            raise ConfigError(key, f"{{{name}}}", f"the placeholders {', '.join(f'{{{n}}}' for n in known)}", remedy)


def _workload(key: str, tenant: TenantConfig, workload: WorkloadSpec, server: ServerSpec) -> WorkloadSpec:
    own = key.removesuffix(".server")
    if server.api in ("completions", "chat"):
        if tenant.workload is not None and tenant.workload.name != "generate":
            remedy = f"Leave {own}.workload out."
            raise ConfigError(f"{own}.workload", tenant.workload.name, f"generate with api={server.api}", remedy)
        workload = replace(workload, kind="generate")
    if workload.kind not in ("forward", "generate"):
        remedy = f"Its request says what it does: set {own}.workload=forward, or generate for tokens that come in turn."
        raise ConfigError("workload", workload.kind, f"forward, generate for {tenant.name}", remedy)
    if not server.texts:
        if tenant.batch_size not in (None, 1):
            remedy = "Write {texts} or {batch_size} in the request, or leave it out."
            raise ConfigError(f"{own}.batch_size", tenant.batch_size, "1 for a request of one text", remedy)
        workload = replace(workload, batch_size=1)
    return workload


def _check_surroundings(config: Config, key: str) -> None:
    if config.sharing.mode not in (SharingMode.processes, SharingMode.mig):
        mode = config.sharing.mode.name
        remedy = "Use sharing=processes, or drop the server."
        raise ConfigError("sharing", mode, f"processes or mig with {key} (a server is a process of its own)", remedy)
    if config.profiler.kind is not Profiler.none:
        remedy = "Drop it: a server's processes are not mtexp's to profile."
        raise ConfigError("profiler", config.profiler.kind.name, f"none with {key}", remedy)


def _named(command: tuple[str, ...]) -> dict[str, Any]:
    """What names the program: hashes of the files that it is made of, versions of the packages that they import."""
    files: dict[str, str] = {}
    packages: dict[str, str] = {}
    for place, word in enumerate(command):
        path = Path(shutil.which(word) or word) if place == 0 else Path(word).expanduser()
        if place and command[place - 1] == "-m":
            found = _module(word)
            files |= {word: found["source"]} if found else {}
            packages |= found.get("packages", {})
        elif os.path.isfile(path):
            files[word] = _hash(path)
            packages |= _packages(path)
        elif os.path.isdir(path):
            inside = sorted(file for file in path.iterdir() if file.is_file())
            files |= {f"{word}/{file.name}": _hash(file) for file in inside}
    return {"files": files, "packages": packages}


def _module(name: str) -> dict[str, Any]:
    """Source and packages of ``-m name``; of an installed distribution its version; empty if it is not found."""
    installed = distributions().get(name.partition(".")[0], ())
    if installed:
        return {"source": "installed", "packages": {one: importlib.metadata.version(one) for one in installed}}
    try:
        return named(locate_module("command", name, name))
    except ConfigError:
        return {}


def _packages(path: Path) -> dict[str, str]:
    """Versions of the distributions that a program in Python imports; none of another file."""
    with path.open("rb") as file:
        first = file.readline(256)
    if path.suffix != ".py" and not (first.startswith(b"#!") and b"python" in first):
        return {}
    versions: dict[str, str] = named(Located(path.parent, path, path))["packages"]
    return versions


def _hash(path: Path) -> str:
    status = path.stat()
    if status.st_size > _MOST_BYTES:
        return f"{status.st_size} bytes of {status.st_mtime_ns}"
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
