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

"""What all evaluations share: which methods, on which data, and where the results go."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aliked_ros.configuration import FrontendConfig
from aliked_ros.evaluation.ledger import Ledger, Row
from aliked_ros.evaluation.methods import Method, Progress, checkpoints, open_methods
from aliked_ros.evaluation.result_table import Report
from aliked_ros.evaluation.sequences import Mode, open_calibrated
from aliked_ros.models.registry import entry_of
from aliked_ros.sources import Source
from aliked_ros.system.provenance import machine
from aliked_ros.types import UInt8Array


@dataclass(frozen=True, slots=True)
class Run:
    """One run of an evaluation.

    data: a sequence as for ``open_source``, or a folder of pairs. methods: their names, as for
    ``open_methods``; all are compared with the first. config: of all methods. output: folder of
    the ledger, the tables and what else an evaluation writes. report: called with the progress.
    limit: most images, or pairs; None = all. restart: discard an interrupted run. mask: of all
    images. say: called with a line on each long step.
    """

    data: str
    methods: Sequence[str]
    config: FrontendConfig
    output: Path
    report: Report
    limit: int | None = None
    restart: bool = False
    mask: UInt8Array | None = None
    say: Progress = lambda _text: None

    def open_source(self, mode: Mode) -> Source:
        """The sequence; SourceError if it lacks a calibration, or what the mode needs."""
        return open_calibrated(self.data, mode, self.limit, self.mask)

    def question(self, evaluation: str, **settings: Any) -> Row:
        """What decides the figures, for the ledger: data, model, checkpoints by checksum.

        settings: of the evaluation.
        """
        if self.mask is not None:
            settings["mask"] = hashlib.sha256(self.mask.tobytes()).hexdigest()
        if not self.config.mask_static:  # not the default
            settings["mask_static"] = False
        path = Path(self.data).expanduser().resolve()
        return {
            "evaluation": evaluation,
            "data": path.name,
            "path": str(path),
            "model": self.config.model,
            "model_checksum": entry_of(self.config.model).sha256,
            "checkpoints": checkpoints(self.methods),
            "max_keypoints": self.config.max_keypoints,
            **settings,
        }

    @contextmanager
    def open(self, question: Row) -> Iterator[tuple[Ledger, list[Method]]]:
        """The ledger of this question, and the methods. Raises as ``open_methods``, OutputError."""
        with (
            Ledger(self.output, question, self.restart) as ledger,
            open_methods(self.methods, self.config, self.say) as methods,
        ):
            yield ledger, methods


def described(question: Row, methods: Sequence[Method]) -> Row:
    """A table's facts: the question, the methods that answer it, and the machine."""
    return question | {
        "methods": [method.name for method in methods],
        "descriptions": {method.name: method.description for method in methods},
        "machine": machine(),
    }
