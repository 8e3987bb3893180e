"""Policies from ONNX files, which many libraries write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from maze.core.env.structured_env import StepKey
from maze.core.errors import ConfigError, MissingExtraError
from maze.train.foreign.network_file_policy import NetworkFilePolicy, Output, existing_file


class OnnxPolicy(NetworkFilePolicy):
    """Plays what an ONNX model says, computed by onnxruntime with one thread.

    Its inputs are named as the entries of the observation; a single input takes a single entry,
    whatever it is called. The first output counts. The first dimension of both is the batch.

    Args:
        path: of the file.
        observation_spaces: see ``NetworkFilePolicy``, as all below.
        action_spaces: see there.
        output: see there.
        distributions: see there.

    Raises:
        ConfigError: If the file is missing, is no ONNX model, or takes other inputs.
        MissingExtraError: If onnxruntime is not installed.
    """

    def __init__(
        self,
        path: str | Path,
        observation_spaces: Mapping[StepKey, spaces.Dict],
        action_spaces: Mapping[StepKey, spaces.Dict],
        output: Output = "logits",
        distributions: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(observation_spaces, action_spaces, output, distributions)
        self.path = str(existing_file(path, "ONNX file"))
        self._load()

    def _load(self) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise MissingExtraError("onnxruntime, which computes ONNX models,", "onnx") from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        try:
            self._session = onnxruntime.InferenceSession(
                self.path, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise ConfigError(
                f"'{self.path}' cannot be read as an ONNX model: {str(error).splitlines()[0]}"
            ) from error
        inputs = [given.name for given in self._session.get_inputs()]
        if len(inputs) == len(self._names) == 1:
            self._inputs = {self._names[0]: inputs[0]}
        elif set(inputs) == set(self._names):
            self._inputs = {name: name for name in inputs}
        else:
            raise ConfigError(
                f"the model in '{self.path}' takes {', '.join(inputs)}, but observations have:"
                f" {', '.join(self._names)}"
            )

    def _ask(
        self, arrays: Mapping[str, NDArray[np.float32]], memories: Sequence[Any]
    ) -> NDArray[Any]:
        feed = {self._inputs[name]: array for name, array in arrays.items()}
        result: NDArray[Any] = self._session.run(None, feed)[0]
        return result

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_session"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._load()
