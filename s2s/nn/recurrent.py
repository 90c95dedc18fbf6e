"""Recurrent layers with the formulas of PyTorch: LSTM (Hochreiter and Schmidhuber 1997, with the forget gate of Gers et
al. 2000) and GRU (Cho et al. 2014).

Shapes: B rows, T positions, I inputs, D width.
"""

import torch
from torch import Tensor, nn

GATES = {"lstm": 4, "gru": 3}
PARTS = {"lstm": 2, "gru": 1}  # tensors of a state: the hidden state, and the cell of an LSTM


class Recurrence(nn.Module):
    """One recurrent layer in one direction.

    Its two linear maps are modules, so that decoding can prepack and quantise them. With plain maps, PyTorch's kernel
    computes a whole sequence in one call; otherwise each position is one step.

    Args:
        kind: `lstm` or `gru`.
        inputs: I.
        width: D.
    """

    def __init__(self, kind: str, inputs: int, width: int):
        super().__init__()
        self.kind, self.width = kind, width
        self.input, self.hidden = nn.Linear(inputs, GATES[kind] * width), nn.Linear(width, GATES[kind] * width)

    def first_weights(self) -> None:
        """Draw the maps of each gate separately. Forget gates are open initially (Jozefowicz et al. 2015)."""
        for gate in self.input.weight.chunk(GATES[self.kind]):
            nn.init.xavier_uniform_(gate)
        for gate in self.hidden.weight.chunk(GATES[self.kind]):
            nn.init.orthogonal_(gate)
        if self.kind == "lstm":
            nn.init.ones_(self.input.bias[self.width : 2 * self.width])

    def forward(self, x: Tensor, state: list[Tensor] | None = None) -> tuple[Tensor, list[Tensor]]:
        """Run the layer over positions.

        Args:
            x: [B, T, I].
            state: State before the first position, PARTS[kind] tensors [B, D]; None: zeros.

        Returns:
            Hidden states [B, T, D], and the state after the last position.
        """
        if state is None:
            state = [x.new_zeros(x.size(0), self.width) for _ in range(PARTS[self.kind])]
        if x.size(1) > 1 and type(self.input) is type(self.hidden) is nn.Linear:
            weights = [self.input.weight, self.hidden.weight, self.input.bias, self.hidden.bias]
            start = [tensor[None].to(x.dtype) for tensor in state]
            options = (weights, True, 1, 0.0, self.training, False, True)  # biases, 1 layer, 1 direction, rows first
            if self.kind == "lstm":
                y, *state = torch.lstm(x, start, *options)
            else:
                y, *state = torch.gru(x, start[0], *options)
            return y, [tensor[0] for tensor in state]
        states = []
        for gates in self.input(x).unbind(1):
            state = self._step(gates, state)
            states.append(state[0])
        return torch.stack(states, 1), state

    def _step(self, gates: Tensor, state: list[Tensor]) -> list[Tensor]:
        """The state after one position; gates: the output of `input` for it, [B, GATES[kind] * D]."""
        before = self.hidden(state[0])
        if self.kind == "lstm":
            entry, forget, new, shown = (gates + before).chunk(4, 1)
            cell = forget.sigmoid() * state[1] + entry.sigmoid() * new.tanh()
            return [shown.sigmoid() * cell.tanh(), cell]
        (reset, update, new), (reset_, update_, new_) = gates.chunk(3, 1), before.chunk(3, 1)
        new = (new + (reset + reset_).sigmoid() * new_).tanh()
        return [torch.lerp(new, state[0].to(new.dtype), (update + update_).sigmoid())]


class Bidirectional(nn.Module):
    """Two recurrences of half the width each; one runs from the last real position back to the first.

    Args:
        kind, inputs, width: As in Recurrence; the width is even.
    """

    def __init__(self, kind: str, inputs: int, width: int):
        super().__init__()
        self.ahead, self.back = Recurrence(kind, inputs, width // 2), Recurrence(kind, inputs, width // 2)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """x: [B, T, I], right-padded; lengths: [B] int64. Returns [B, T, D]."""
        place = torch.arange(x.size(1), device=x.device)
        mirrored = torch.where(place < lengths[:, None], lengths[:, None] - 1 - place, place)[:, :, None]
        back, _ = self.back(x.gather(1, mirrored.expand_as(x)))
        return torch.cat([self.ahead(x)[0], back.gather(1, mirrored.expand_as(back))], dim=2)
