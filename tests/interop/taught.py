"""A model of transformers that is taught for a moment, so that its outputs depend on its inputs and end somewhere."""

import torch

from s2s.text.vocabulary import BOS, EOS


def teach(model, symbols, end, first=(), steps=150):
    """Teach a model to copy a little.

    Args:
        model: Any with labels, without dropout, and with initial weights of std 0.2.
        symbols: Ids that sources and targets have.
        end: Id of the end of both.
        first: Ids in front of each source and target.
    """
    random, pick = torch.Generator().manual_seed(5), torch.tensor(symbols)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    closing, opening = torch.full((32, 1), end), torch.tensor([first] * 32, dtype=torch.long).view(32, -1)
    for _ in range(steps):
        length = int(torch.randint(1, 8, (1,), generator=random))
        target = torch.cat([pick[torch.randint(len(pick), (32, length), generator=random)], closing], 1)
        target = torch.cat([opening, target], 1)
        loss = model(input_ids=target, labels=target).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def words(count, symbols):
    """Lines of ragged lengths."""
    pick = torch.Generator().manual_seed(3)
    return [
        " ".join(symbols[i] for i in torch.randint(len(symbols), (1 + n % 9,), generator=pick)) for n in range(count)
    ]


@torch.no_grad()
def same_logits(theirs, model, task, lines, encode, row, prefix=(), tags=()):
    """The logits of both for given targets; all but that of the beginning.

    Args:
        theirs: The model of transformers.
        model, task: Ours.
        lines: Sources.
        encode: Their ids of a source.
        row: Their id of each of our symbols.
        prefix: Ids of ours that a target begins with, after the beginning.
        tags: Of all lines.
    """
    sources = task.tagged(task.encode(lines), dict(tags))
    for line, ours in zip(lines, sources, strict=True):
        assert encode(line) == [row[i] for i in [*ours, EOS]], line
    target = torch.randint(4, len(row), (len(lines), 9))
    target[:, : 1 + len(prefix)] = torch.tensor([BOS, *prefix])
    (source,) = task.collate_sources(sources).sources
    mask = (torch.arange(source.values.size(1)) < source.lengths[:, None]).long()
    row = torch.tensor(row)
    logits = model.decode(model.encode((source,)), target).logits()
    expected = theirs(input_ids=row[source.values], attention_mask=mask, decoder_input_ids=row[target]).logits[..., row]
    keep = torch.tensor([i for i in range(len(row)) if i != BOS])
    torch.testing.assert_close(logits[..., keep], expected[..., keep], rtol=1e-4, atol=1e-4)
    assert logits[..., 4:].std() > 0.3
    assert (logits[..., BOS] < -50).all()


@torch.no_grad()
def written(theirs, lines, encode, decode, beams, longest, **options):
    """The line of the other library's own `generate` for each line; None: it was cut, where the end is free there."""
    theirs.generation_config.max_length = longest
    rows = [theirs.generate(torch.tensor([encode(line)]), num_beams=beams, **options)[0] for line in lines]
    return [decode(row.tolist()) if len(row) < longest else None for row in rows]


def compare(s2s, tmp_path, checkpoint, lines, expected, beams, *more):
    """Assert that s2s-generate writes the expected lines."""
    (tmp_path / "in").write_text("\n".join(lines) + "\n")
    assert s2s("generate", f"checkpoint={checkpoint}", f"input={tmp_path / 'in'}", f"output={tmp_path / 'out'}",
               "decode=huggingface", f"decode.beam_size={beams}", "decode.max_length_b=28", "device=cpu",
               *more) == 0  # fmt: skip
    found = (tmp_path / "out").read_text().splitlines()
    other = [pair for pair in zip(found, expected, strict=True) if pair[1] not in (pair[0], None)]
    assert not other, other
    assert expected.count(None) < len(lines) / 2
    assert len(set(expected)) > len(lines) / 2
