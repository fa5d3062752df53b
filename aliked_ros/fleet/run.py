# Copyright 2026 aliked_ros maintainers
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""The batch: its tasks on Ray, which places them, and repeats those of a worker that was lost."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import signal
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from importlib.metadata import version
from typing import Any

import ray
from ray._private.authentication.authentication_token_setup import (
    maybe_enable_token_auth_if_token_available,
)
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from aliked_ros.errors import AlikedError, BackendError, ConfigurationError
from aliked_ros.fleet import work
from aliked_ros.fleet.counter import Counter
from aliked_ros.fleet.plan import Plan
from aliked_ros.fleet.reductions import REDUCTIONS
from aliked_ros.fleet.storage import Store
from aliked_ros.system.cpu import cores
from aliked_ros.system.provenance import machine

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"  # of the batch, beside the recordings' folders
_STORE_MEMORY = 128 << 20  # bytes: tasks pass figures, never images or features
_INTERVAL = 0.5  # seconds between two looks
_RAY = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # a task without a GPU may look for one
    "RAY_agent_register_timeout_ms": "120000",  # 15 s are too few on a busy machine
}
_LASTING = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1}
_GPU_BACKENDS = ("auto", "tensorrt", "torch")

Progress = Callable[["State"], None]


@dataclass(slots=True)
class State:
    """How far a batch is.

    recordings, done, unchanged: numbers of recordings. work, images: to go through, and gone
    through, in the tasks known so far. seconds: spent in tasks. failures: of recordings, each with
    a reason. reduction: the one that is being made.
    """

    recordings: int
    done: int = 0
    unchanged: int = 0
    work: int = 0
    images: int = 0
    seconds: float = 0.0
    failures: list[dict[str, str]] = field(default_factory=list)
    reduction: str = ""


@dataclass(frozen=True, slots=True)
class Cluster:
    """Where the tasks run.

    address: ``auto`` or ``ray://...`` of a running cluster; empty = processes of this machine.
    workers: of this machine, 0 = one for each ``threads`` cores. dashboard: Ray's page.
    """

    address: str = ""
    workers: int = 0
    dashboard: bool = False


def _reporting(counter: Any, task: str) -> work.Report:
    """Reports to the counter, once a second."""
    latest = time.monotonic()

    def report(images: int) -> None:
        nonlocal latest
        if time.monotonic() - latest > 1.0:
            latest = time.monotonic()
            counter.set.remote(task, images)

    return report


def _survey(plan: Plan, key: str, name: str, recording: str) -> work.Survey:
    return work.survey(plan, key, name, recording)


def _extract(plan: Plan, found: work.Survey, number: int, counter: Any) -> dict[str, Any]:
    return work.extract(plan, found, number, _reporting(counter, f"{found.name} {number}"))


def _finish(
    plan: Plan, key: str, found: work.Survey, counter: Any, *parts: dict[str, Any]
) -> dict[str, Any]:
    return work.finish(plan, key, found, list(parts), _reporting(counter, found.name))


class Tasks:
    """Starts functions as tasks, for the reductions; see ``vocabulary.Spread``."""

    def __init__(self, **resources: Any) -> None:
        self._resources = resources
        self._remote = lru_cache(ray.remote)  # Ray stores each remote function anew

    def __call__(self, function: Callable[..., Any], *arguments: Any, returns: int = 1) -> Any:
        """Start a function. returns: number of handles, one for each result that it yields."""
        options = {**self._resources, "num_returns": returns}
        return self._remote(function).options(**options).remote(*arguments)

    def put(self, value: Any) -> Any:
        """See ``vocabulary.Spread``."""
        return ray.put(value)

    def get(self, handle: Any) -> Any:
        """See ``vocabulary.Spread``."""
        return ray.get(handle)


def run_batch(
    plan: Plan, cluster: Cluster, say: Callable[[str], None], progress: Progress
) -> dict[str, Any]:
    """Do what is not done yet; returns the batch's manifest, which also lies in the output.

    say: gets a line about where the tasks run. progress: called about twice a second.
    Recordings that fail are listed under ``failures``; the others are complete.
    Raises SourceError, ConfigurationError, OutputError, and BackendError if Ray does not start.
    """
    Store(plan.output)  # a bad address is refused before Ray starts
    named = plan.named_recordings()
    with running(plan, cluster, say):
        if cluster.address:
            _check_nodes(plan)
        return process(plan, named, progress)


@contextmanager
def running(plan: Plan, cluster: Cluster, say: Callable[[str], None]) -> Iterator[None]:
    """Ray, with workers for the plan's number of threads; BackendError if it does not start."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        _start(plan, cluster, say)
        yield
    finally:
        ray.shutdown()
        with suppress(ValueError):  # in another thread Ray leaves the handler, too
            signal.signal(signal.SIGTERM, handler)


def process(plan: Plan, named: dict[str, str], progress: Progress) -> dict[str, Any]:
    """``run_batch`` on a Ray that runs; named: ``plan.named_recordings()``."""
    store, begun = Store(plan.output), time.monotonic()
    manifests, state = _run(plan, plan.key, named, progress)
    seconds = time.monotonic() - begun
    reductions = _reduce(plan, store, manifests, state, progress)
    facts = {
        "plan": asdict(plan),
        "key": plan.key,
        "version": version("aliked_ros"),
        "machine": machine(),
        "seconds": round(seconds, 3),
        "task_seconds": round(state.seconds, 3),
        "recordings": len(named),
        "complete": len(manifests),
        "unchanged": state.unchanged,
        "images": sum(manifest["images"] for manifest in manifests.values()),
        "failures": state.failures,
        "reductions": reductions,
        "results": dict(sorted(manifests.items())),
    }
    store.write_json(MANIFEST, facts)
    return facts


def _start(plan: Plan, cluster: Cluster, say: Callable[[str], None]) -> None:
    for name, value in _RAY.items():
        os.environ.setdefault(name, value)
    threads = plan.config.threads or cores()
    options: dict[str, Any] = {"address": cluster.address}
    if not cluster.address:
        workers = cluster.workers or max(cores() // threads, 1)
        options = {
            "address": "local",
            "num_cpus": workers * threads,
            "object_store_memory": _STORE_MEMORY,
            "include_dashboard": cluster.dashboard,
        }
    elif cluster.address.startswith("ray://"):  # Ray itself does it for all other addresses
        logging.getLogger("ray").setLevel(logging.ERROR)
        maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the error says the same
            context = ray.init(logging_level=logging.ERROR, **options)
    except Exception as error:  # Ray's own have no common base
        text = " ".join(str(error).split()) or type(error).__name__
        if "timed out during startup" in text:
            text = (
                "it gives itself 30 seconds, too few while this machine is busy. Try again when "
                "it is not"
            )
        elif "client connection timeout" in text:
            text = (
                f"{cluster.address} does not answer. Check host and port (10001 by default), and "
                "that the cluster's token is on this machine (docs/fleet.md)"
            )
        elif "Initialization failure from server" in text:
            text = (
                f"{cluster.address} did not start a process for this client in time. Try again, or "
                "start the batch on one of its nodes with --address auto"
            )
        raise BackendError(f"Ray does not start: {text.rstrip('.')}.") from error
    url = getattr(context, "dashboard_url", "")
    if url:
        say(f"Ray's dashboard: http://{url}")


def _check_nodes(plan: Plan) -> None:
    """Refuse nodes that would write elsewhere, or other results; ConfigurationError names one."""
    store, name, own = Store(plan.output), f".seen-{uuid.uuid4().hex[:8]}", version("aliked_ros")
    look = ray.remote(_look)
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    with store.writing(name) as path:
        path.touch()
    try:
        found = [
            look.options(
                num_cpus=0,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], False),
            ).remote(plan.output, name)
            for node in nodes
        ]
        for node, task in zip(nodes, found, strict=True):
            host = node["NodeManagerHostname"]
            try:
                theirs, there = ray.get(task)
            except (ray.exceptions.NodeDiedError, ray.exceptions.TaskUnschedulableError):
                continue  # it has gone
            except (ray.exceptions.RayError, AlikedError, ImportError) as error:
                raise ConfigurationError(
                    f"{host} cannot run tasks: {_reason(error).rstrip('.')}. Each node needs this "
                    "environment: make setup GROUP=fleet."
                ) from error
            if theirs != own:
                raise ConfigurationError(
                    f"{host} has aliked_ros {theirs}, this machine {own}; install one version."
                )
            if not there:
                raise ConfigurationError(
                    f"output {plan.output} is another folder on {host} than here; give one that "
                    "all machines share, or a URI such as s3://."
                )
    finally:
        store.remove(name)


def _look(output: str, name: str) -> tuple[str, bool]:
    """A node's version, and whether it sees a file of the output."""
    return version("aliked_ros"), Store(output).exists(name)


def _run(
    plan: Plan, key: str, named: dict[str, str], progress: Progress
) -> tuple[dict[str, dict[str, Any]], State]:
    """Every recording through its tasks; the manifests of those that are complete, by name."""
    resources: dict[str, Any] = {
        "num_cpus": plan.config.threads or cores(),
        "num_gpus": _gpus(plan),
    }
    survey = ray.remote(_survey).options(num_cpus=1)
    extract = ray.remote(_extract).options(**resources)
    finish = ray.remote(_finish).options(**resources)
    counter, state = ray.remote(Counter).options(**_LASTING).remote(), State(len(named))
    plan_at, asked = ray.put(plan), counter.total.remote()
    surveys = {survey.remote(plan_at, key, name, one): name for name, one in named.items()}
    waiting, manifests = dict(surveys), dict[str, dict[str, Any]]()
    while waiting:
        ray.wait(list(waiting), timeout=_INTERVAL)  # for the first one
        ready, _ = ray.wait(list(waiting), num_returns=len(waiting), timeout=0)
        for task in ready:
            name = waiting.pop(task)
            try:
                found = ray.get(task)
            except (ray.exceptions.RayError, AlikedError, OSError) as error:
                state.failures.append({"recording": named[name], "reason": _reason(error)})
                logger.warning("%s failed: %s", named[name], state.failures[-1]["reason"])
                continue
            if isinstance(found, dict):
                manifests[name] = found
                state.done += 1
                state.seconds += sum(found["seconds"].values())
            elif found.manifest is not None:
                manifests[name] = found.manifest
                state.done, state.unchanged = state.done + 1, state.unchanged + 1
            else:
                state.work += found.work
                parts = [
                    extract.remote(plan_at, found, n, counter) for n in range(len(found.parts))
                ]
                waiting[finish.remote(plan_at, key, found, counter, *parts)] = name
        if ray.wait([asked], timeout=0)[0]:
            with suppress(ray.exceptions.RayError):  # the counter is being restarted
                state.images = ray.get(asked)
            asked = counter.total.remote()
        progress(state)
    state.failures.sort(key=lambda one: one["recording"])
    return manifests, state


def _reduce(
    plan: Plan,
    store: Store,
    manifests: dict[str, dict[str, Any]],
    state: State,
    progress: Progress,
) -> dict[str, str]:
    """Make the reductions that are missing, or whose inputs changed; failures are listed, too.

    Returns the checksums of the inputs of those that there are now.
    """
    before = (store.read_json(MANIFEST) or {}).get("reductions", {})
    failures, inputs = list(state.failures), dict[str, str]()
    spread = Tasks(num_cpus=1)
    for name in plan.reductions if manifests else ():
        file, make = REDUCTIONS[name]
        digest = _digest([manifests, plan.every, failures if name == "report" else []])
        if before.get(name) != digest or not store.exists(file):
            state.reduction = name
            progress(state)
            try:
                make(plan, manifests, failures, spread)
            except (ray.exceptions.RayError, AlikedError, OSError, ImportError) as error:
                state.failures.append({"recording": f"({name})", "reason": _reason(error)})
                continue
        inputs[name] = digest
    return inputs


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _gpus(plan: Plan) -> float:
    if plan.gpus is not None:
        return plan.gpus
    cluster: dict[str, float] = ray.cluster_resources()
    return float("GPU" in cluster and plan.config.backend in _GPU_BACKENDS)


def _reason(error: BaseException) -> str:
    """One line: what a task raised, or what became of its worker."""
    cause = getattr(error, "cause", None) or error
    if isinstance(cause, AlikedError):
        return str(cause)
    if isinstance(cause, ray.exceptions.RayError):
        lines = str(cause).strip().splitlines() or [type(cause).__name__]
        return f"its worker was lost, also when Ray repeated the task: {lines[0]}"
    return f"{type(cause).__name__}: {' '.join(str(cause).split())}"
