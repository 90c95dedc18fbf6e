"""A model of transformers that is taught for a moment, so that its outputs depend on its inputs and end somewhere."""

import torch


def teach(model, symbols, end, first=(), steps=150):
    """Teach a model to copy a little.

    Args:
        model: Any with labels, without dropout, and with initial weights of std 0.2.
        symbols: Ids that sources and targets have.
        end: Id of the end of both.
        first: Ids in front of each source.
    """
    random, pick = torch.Generator().manual_seed(5), torch.tensor(symbols)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    closing, opening = torch.full((32, 1), end), torch.tensor([first] * 32, dtype=torch.long).view(32, -1)
    for _ in range(steps):
        length = int(torch.randint(1, 8, (1,), generator=random))
        target = torch.cat([pick[torch.randint(len(pick), (32, length), generator=random)], closing], 1)
        loss = model(input_ids=torch.cat([opening, target], 1), labels=target).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()
