"""`smalti serve`: the HTTP server and the web studio."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from smalti.cli import options
from smalti.cli.output import to_path
from smalti.cli.serve_models import in_this_process, on_ray
from smalti.common.checks import check_real, check_whole
from smalti.errors import SmaltiError

if TYPE_CHECKING:
    from smalti.serving.limits import Limits

_SERVER = "Server"
_LIMITS = "Limits"
_RAY = "Several machines"
_KEYS = "SMALTI_API_KEYS"
_LOADING = (
    *(
        "dtype",
        "quantize",
        "quantize_activations",
        "offload",
        "memory",
        "image_dtype",
        "compile",
        "hub_revision",
    ),
    *("adapter", "adapter_scale", "verifier", "classifier", "light", "word"),
)


def _option(name: str, metavar: str, help: str, panel: str = _SERVER) -> Any:
    parser = to_path if metavar in ("FILE", "FOLDER") else None
    return typer.Option(
        name, metavar=metavar, help=help, show_default=False, rich_help_panel=panel, parser=parser
    )


Models = Annotated[
    list[str] | None,
    _option(
        "--model",
        "MODEL",
        "Bundled model, model folder, or a name on the Hugging Face hub; repeat it for more. The first one is the "
        "default. By default objects.",
        "Model",
    ),
]
Devices = Annotated[
    list[str] | None,
    _option(
        "--device", "NAME", "cpu, cuda, cuda:1, ...; repeat it to draw on several. By default cpu.", "Model"
    ),
]
Host = Annotated[str, typer.Option(metavar="ADDRESS", help="Address to listen at.", rich_help_panel=_SERVER)]
Port = Annotated[int, typer.Option(metavar="N", help="Port; 0 is any free one.", rich_help_panel=_SERVER)]
KeyFile = Annotated[
    Path | None,
    _option(
        "--api-key-file",
        "FILE",
        f"File of keys, one a line; a client must send one of them. The variable {_KEYS} may hold them instead, with "
        "spaces between.",
    ),
]
NoAuth = Annotated[
    bool,
    typer.Option(
        "--no-auth",
        help="Listen beyond loopback without keys: everyone who reaches the address may draw.",
        rich_help_panel=_SERVER,
    ),
]
Keep = Annotated[
    Path | None,
    _option("--keep", "FOLDER", "Keep jobs and results in this folder, where they survive a restart."),
]
Aliases = Annotated[
    list[str] | None,
    _option("--alias", "NAME", "Another name of the first model, such as gpt-image-1; repeat it for more."),
]
Hosts = Annotated[
    list[str] | None,
    _option(
        "--allow-host",
        "NAME",
        "Another name under which clients reach the server, such as that of a proxy in front; repeat it for more.",
    ),
]
Origins = Annotated[
    list[str] | None,
    _option(
        "--cors-origin",
        "ORIGIN",
        "Another site whose pages may send requests, such as https://example.org; repeat it for more.",
    ),
]
StrictSize = Annotated[
    bool,
    typer.Option(
        "--strict-size",
        help="Refuse sizes that the model does not draw, in place of resampling its images to them.",
        rich_help_panel=_SERVER,
    ),
]
IgnoreUnknown = Annotated[
    bool,
    typer.Option(
        "--ignore-unknown",
        help="Ignore unknown fields of a request and list them in the answer, in place of an error.",
        rich_help_panel=_SERVER,
    ),
]
BatchSize = Annotated[
    int,
    typer.Option(
        metavar="N",
        help="Images that are drawn together; the number changes no image.",
        rich_help_panel=_LIMITS,
    ),
]
Queue = Annotated[
    int,
    typer.Option(
        metavar="N", help="Requests that may wait; the next one is refused.", rich_help_panel=_LIMITS
    ),
]
QueuePerClient = Annotated[
    int,
    typer.Option(metavar="N", help="Requests of one key or address that may wait.", rich_help_panel=_LIMITS),
]
Rate = Annotated[
    float,
    typer.Option(
        metavar="N", help="Requests a minute of one key or address; 0 is no limit.", rich_help_panel=_LIMITS
    ),
]
MostSeconds = Annotated[
    float,
    typer.Option(
        metavar="S",
        help="Seconds of drawing that one request may take, by the pace that was measured.",
        rich_help_panel=_LIMITS,
    ),
]
DrainSeconds = Annotated[
    float,
    typer.Option(
        metavar="S",
        help="Seconds to finish accepted requests after Ctrl-C or SIGTERM.",
        rich_help_panel=_LIMITS,
    ),
]
Ray = Annotated[
    bool,
    typer.Option(
        "--ray",
        help="Draw in replicas on a Ray cluster, not in this process. Needs smalti[ray].",
        rich_help_panel=_RAY,
    ),
]
Replicas = Annotated[
    int | None,
    _option("--replicas", "N", "Replicas with --ray; each draws a batch at a time. By default 1.", _RAY),
]
RayConfig = Annotated[
    Path | None,
    _option(
        "--ray-config",
        "FILE",
        "YAML file with the cluster's address and what a replica needs; implies --ray. Without an address Ray starts "
        "on this machine.",
        _RAY,
    ),
]
KeepResults = Annotated[
    int | None,
    _option("--most-results", "N", "Results that are kept: by default 200, with --keep 10000.", _LIMITS),
]


def serve(
    context: typer.Context,
    model: Models = None,
    device: Devices = None,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    api_key_file: KeyFile = None,
    no_auth: NoAuth = False,
    keep: Keep = None,
    alias: Aliases = None,
    allow_host: Hosts = None,
    cors_origin: Origins = None,
    strict_size: StrictSize = False,
    ignore_unknown: IgnoreUnknown = False,
    metadata: options.Metadata = True,
    dtype: options.Dtype = None,
    quantize: options.Quantize = None,
    quantize_activations: options.QuantizeActivations = False,
    offload: options.Offload = None,
    memory: options.Memory = None,
    image_dtype: options.ImageDtype = None,
    compile: options.Compile = False,
    hub_revision: options.HubRevision = None,
    adapter: options.Adapter = None,
    adapter_scale: options.AdapterScale = None,
    verifier: options.Verifier = None,
    classifier: options.Classifier = None,
    light: options.Light = None,
    word: options.Word = None,
    batch_size: BatchSize = 8,
    queue: Queue = 64,
    queue_per_client: QueuePerClient = 8,
    rate: Rate = 0,
    most_seconds: MostSeconds = 60,
    most_results: KeepResults = None,
    drain_seconds: DrainSeconds = 60,
    ray: Ray = False,
    replicas: Replicas = None,
    ray_config: RayConfig = None,
) -> None:
    """Serve models over HTTP: OpenAI's Images API, jobs, and a web studio.

    Then open http://127.0.0.1:8000/ in a browser. docs/serving.md says more.

    Example: smalti serve --alias gpt-image-1 --keep jobs
    """
    run = _server()
    limits = _limits(
        keep, batch_size, queue, queue_per_client, rate, most_seconds, most_results, drain_seconds
    )
    check_whole("--port", port, 0, 65535)
    found = run.Options(
        host=host,
        port=port,
        keys=_keys(api_key_file),
        no_auth=no_auth,
        keep=keep,
        aliases=alias or (),
        hosts=allow_host or (),
        origins=cors_origin or (),
        strict_size=strict_size,
        ignore_unknown=ignore_unknown,
        metadata=metadata,
        limits=limits,
    )
    loading = {name: context.params[name] for name in _LOADING}

    import smalti

    devices = device or ["cpu"]
    load, workers = in_this_process(model or [], devices, loading)
    if ray or ray_config is not None:
        load, workers = on_ray(model or [], devices, loading, ray_config, replicas, limits)
    elif replicas is not None:
        raise SmaltiError("--replicas needs --ray")
    with run.shown_log():
        run.serve(load, found, smalti.__version__, partial(_say_started, host), workers)


def _say_started(host: str, port: int) -> None:
    shown = f"[{host}]" if ":" in host else host
    print(f"smalti: serving at http://{shown}:{port}/", file=sys.stderr, flush=True)


def _server() -> Any:
    """Return the module that runs the server.

    Raises:
        SmaltiError: its packages are missing.
    """
    try:
        from smalti.serving import run
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "smalti":
            raise
        raise SmaltiError(f"smalti serve needs {error.name}: pip install 'smalti[serve]'") from error
    return run


def _keys(path: Path | None) -> Sequence[str]:
    """Return the keys of the file, or of the environment; never of the command line, which others can read."""
    from smalti.serving.run import check_keys, read_keys

    if path is not None:
        return read_keys(path)
    return check_keys(os.environ[_KEYS].split(), _KEYS) if os.environ.get(_KEYS) else ()


def _limits(
    keep: Path | None,
    batch_size: int,
    queue: int,
    queue_per_client: int,
    rate: float,
    most_seconds: float,
    most_results: int | None,
    drain_seconds: float,
) -> Limits:
    from smalti.serving.limits import Limits

    base = Limits() if keep is None else Limits(results=10_000, results_bytes=10_000_000_000)
    return dataclasses.replace(
        base,
        batch=check_whole("--batch-size", batch_size),
        waiting=check_whole("--queue", queue),
        waiting_per_client=check_whole("--queue-per-client", queue_per_client),
        rate=check_real("--rate", rate),
        work_seconds=check_real("--most-seconds", most_seconds, 0, above=True),
        results=base.results if most_results is None else check_whole("--most-results", most_results),
        drain_seconds=check_real("--drain-seconds", drain_seconds),
    )
