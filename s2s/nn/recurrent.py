"""Recurrent layers with the formulas of PyTorch: LSTM (Hochreiter and Schmidhuber 1997, with the forget gate of Gers et
al. 2000) and GRU (Cho et al. 2014).

Shapes: B rows, T positions, I inputs, D width.
"""

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

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

    def forward(
        self, x: Tensor, state: list[Tensor] | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """Run the layer over positions.

        Args:
            x: [B, T, I].
            state: State before the first position, PARTS[kind] tensors [B, D]; None: zeros.
            lengths: [B] int64, at least 1, real positions of each row; None: all are real.

        Returns:
            Hidden states [B, T, D], and the state after the last real position. Hidden states at padding have no
            meaning.
        """
        if state is None:
            state = [x.new_zeros(x.size(0), self.width) for _ in range(PARTS[self.kind])]
        if x.size(1) > 1 and type(self.input) is type(self.hidden) is nn.Linear:
            if lengths is not None:
                return self._packed(x, state, lengths)
            return self._whole(x, state)
        states = []
        for t, gates in enumerate(self.input(x).unbind(1)):
            after = self._step(gates, state)
            states.append(after[0])
            if lengths is not None:
                after = [torch.where(t < lengths[:, None], new, old) for new, old in zip(after, state, strict=True)]
            state = after
        return torch.stack(states, 1), state

    def _whole(self, x: Tensor, state: list[Tensor], sizes: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        """As `forward`, by PyTorch's kernel; sizes: rows of each position where x is packed, [positions, I]."""
        weights = [self.input.weight, self.hidden.weight, self.input.bias, self.hidden.bias]
        start = [tensor[None].to(x.dtype) for tensor in state]
        run, first = (torch.lstm, start) if self.kind == "lstm" else (torch.gru, start[0])
        options = (weights, True, 1, 0.0, self.training, False)  # biases, 1 layer, 1 direction
        y, *state = run(x, first, *options, True) if sizes is None else run(x, sizes, first, *options)
        return y, [tensor[0] for tensor in state]

    def _packed(self, x: Tensor, state: list[Tensor], lengths: Tensor) -> tuple[Tensor, list[Tensor]]:
        """As `_whole`, over the real positions only."""
        rows = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        y, state = self._whole(rows.data, [part[rows.sorted_indices] for part in state], rows.batch_sizes)
        y, _ = pad_packed_sequence(rows._replace(data=y), batch_first=True, total_length=x.size(1))
        return y, [part[rows.unsorted_indices] for part in state]

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

    def forward(self, x: Tensor, lengths: Tensor, last: bool = False) -> tuple[Tensor, list[Tensor]]:
        """Run both directions.

        Args:
            x: [B, T, I], right-padded.
            lengths: [B] int64.
            last: Whether the last states are needed.

        Returns:
            [B, T, D]; and, if they are needed, the last states of both directions side by side, PARTS[kind] tensors
            [B, D].
        """
        place = torch.arange(x.size(1), device=x.device)
        mirrored = torch.where(place < lengths[:, None], lengths[:, None] - 1 - place, place)[:, :, None]
        ends = lengths if last else None
        back, before = self.back(x.gather(1, mirrored.expand_as(x)), lengths=ends)
        ahead, after = self.ahead(x, lengths=ends)
        states = [torch.cat(pair, dim=1) for pair in zip(after, before, strict=True)] if last else []
        return torch.cat([ahead, back.gather(1, mirrored.expand_as(back))], dim=2), states
