"""Policies from TorchScript files: ``torch.jit.script(network).save(path)``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray

from maze.core.env.structured_env import StepKey
from maze.core.errors import ConfigError
from maze.train.foreign.network_file_policy import NetworkFilePolicy, Output, existing_file
from maze.train.torch_policy import check_device


class TorchScriptPolicy(NetworkFilePolicy):
    """Plays what a TorchScript module says.

    Its ``forward`` takes a tensor, or a dictionary of tensors if observations have several entries.
    A recurrent one takes and returns a state besides: ``forward(observations, state) -> (output,
    state)``, with ``initial_state() -> state`` exported; all tensors of the state have the batch as
    their first dimension. Each episode has a state of its own.

    Args:
        path: of the file.
        observation_spaces: see ``NetworkFilePolicy``, as all below that are not described here.
        action_spaces: see there.
        output: see there.
        distributions: see there.
        device: where it computes.
        recurrent: whether it takes and returns a state.

    Raises:
        ConfigError: If the file is missing or holds no TorchScript.
    """

    def __init__(
        self,
        path: str | Path,
        observation_spaces: Mapping[StepKey, spaces.Dict],
        action_spaces: Mapping[StepKey, spaces.Dict],
        output: Output = "logits",
        distributions: Mapping[str, str] | None = None,
        device: str = "cpu",
        recurrent: bool = False,
    ) -> None:
        super().__init__(observation_spaces, action_spaces, output, distributions)
        self._device = check_device(device)
        file = existing_file(path, "TorchScript file")
        try:
            self._module = torch.jit.load(str(file), map_location=device).eval()
        except Exception as error:
            raise ConfigError(
                f"'{path}' cannot be read as TorchScript: {str(error).splitlines()[0]}"
            ) from error
        self._recurrent = recurrent
        if recurrent and not hasattr(self._module, "initial_state"):
            raise ConfigError(
                f"'{path}' exports no initial_state(), which a recurrent policy needs"
                " (@torch.jit.export)"
            )
        self.path = str(file)

    def _ask(
        self, arrays: Mapping[str, NDArray[np.float32]], memories: Sequence[Any]
    ) -> NDArray[Any]:
        tensors = {name: torch.from_numpy(a).to(self._device) for name, a in arrays.items()}
        given: Any = tensors if len(tensors) > 1 else next(iter(tensors.values()))
        with torch.inference_mode():
            if not self._recurrent:
                return self._module(given).cpu().numpy()
            states = [
                self._module.initial_state() if memory["state"] is None else memory["state"]
                for memory in memories
            ]
            parts = [_parts(state) for state in states]
            joined = [torch.cat(column) for column in zip(*parts, strict=True)]
            output, state = self._module(given, _like(states[0], joined))
            for i, memory in enumerate(memories):
                memory["state"] = _like(states[0], [part[i : i + 1] for part in _parts(state)])
            return output.cpu().numpy()

    def __reduce__(self) -> tuple[Any, ...]:
        return _loaded, (self.path, self.__getstate_for_copy())

    def __getstate_for_copy(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_module"}


def _loaded(path: str, state: dict[str, Any]) -> TorchScriptPolicy:
    """Make a policy again in another process: modules of TorchScript cannot be pickled."""
    policy = TorchScriptPolicy.__new__(TorchScriptPolicy)
    vars(policy).update(state)
    policy._module = torch.jit.load(path, map_location=policy._device).eval()
    return policy


def _parts(state: Any) -> Sequence[torch.Tensor]:
    return [state] if isinstance(state, torch.Tensor) else list(state)


def _like(state: Any, parts: Sequence[torch.Tensor]) -> Any:
    return parts[0] if isinstance(state, torch.Tensor) else tuple(parts)
