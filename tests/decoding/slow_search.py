"""Slow, obvious references for decoding: one sentence, Python lists, the whole prefix decoded anew for each token."""

import itertools
import math
from collections import Counter, defaultdict

import torch

from s2s.data.batch import Inputs, Source
from s2s.decoding.setting import Sides
from s2s.models.transformer import Transformer
from s2s.text.vocabulary import BOS, EOS, PAD, UNK
from tests.specs import text_spec


def tiny_model(seed, vocabulary=9, positions="sinusoidal", kv_heads=None, scale=1.6, **options):
    """A random Transformer in float64; its weights are enlarged so that its opinions differ."""
    torch.manual_seed(seed)
    config = Transformer.Config(positions=positions, **options)
    for stack in (config.encoder, config.decoder):
        stack.layers, stack.width, stack.heads, stack.kv_heads, stack.ffn_width = 2, 16, 2, kv_heads, 32
    model = Transformer(config, text_spec(vocabulary)).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(scale)
        model.output.weight[EOS] *= 1.5
    return model


def collate(sources, device="cpu"):
    """Right-padded source ids with EOS, as a task makes them."""
    lengths = [len(source) + 1 for source in sources]
    ids = [[*source, EOS] + [PAD] * (max(lengths) - len(source) - 1) for source in sources]
    return Inputs((Source(torch.tensor(ids, device=device), torch.tensor(lengths, device=device)),))


sides = Sides(collate)


def next_log_probabilities(models, source, prefixes, weights=None, log_linear=False, temperature=1, eos_scale=1):
    """[prefixes, V] lists: log of the mean probability of each next token; the prefixes are of one length."""
    total = 0
    for model, weight in zip(models, weights or [1] * len(models), strict=True):
        with torch.no_grad():
            sources = collate([source] * len(prefixes))
            output = model.decode(model.encode(*sources), torch.tensor([[BOS, *prefix] for prefix in prefixes]))
            probabilities = (output.logits()[:, -1] / temperature).softmax(dim=-1)
            total = total + weight * (probabilities.log() if log_linear else probabilities)
    total = total / sum(weights or [1] * len(models))
    rated = (total.softmax(dim=-1) if log_linear else total).log()
    rated[:, EOS] *= eos_scale
    return rated.tolist()


def normalised(log_probability, tokens, config):
    """The score of a hypothesis of so many tokens, EOS not among them."""
    length, reward = tokens + 1, config.word_reward * tokens
    if config.length_normalization == "gnmt":
        return log_probability / ((5 + length) / 6) ** config.length_penalty + reward
    return log_probability / length**config.length_penalty + reward


def bounds(source, prefix, config):
    """Least and greatest length."""
    most = max(math.floor(config.max_length_a * len(source)) + config.max_length_b, len(prefix))
    least = math.floor(config.min_length_a * len(source)) + config.min_length_b
    return min(max(least, len(prefix)), most), most


def allowed(token, length, least, most, prefix, config):
    """Whether a token may follow `length` tokens."""
    if length < len(prefix):
        return token == prefix[length]
    if length == most:
        return token == EOS
    if token == EOS:
        return length >= least
    return token not in (PAD, BOS) and (token != UNK or config.allow_unknown)


def holds(ids, phrase):
    """Whether a sequence holds another one in one piece."""
    return any(list(ids[i : i + len(phrase)]) == list(phrase) for i in range(len(ids) - len(phrase) + 1))


def ruled_out(ids, token, config, forbidden):
    """Whether the rules of no_repeat_ngram and forbidden keep a token from following."""
    if token == EOS:
        return False
    path, n = [*ids, token], config.no_repeat_ngram
    grams = [tuple(path[i : i + n]) for i in range(len(path) - n + 1)]
    return (n > 0 and len(grams) > 0 and grams[-1] in grams[:-1]) or any(path[-len(p) :] == p for p in forbidden)


def choices(ids, row, least, most, prefix, config, forbidden=(), outputs=(), closing=None):
    """Tokens that may follow. A hypothesis that the rules leave nothing may end. `closing`: the only tokens that may
    follow a prefix that has none of them after its first token."""
    if outputs:
        return sorted({[*one, EOS][len(ids)] for one in outputs if list(one[: len(ids)]) == ids})
    length, V = len(ids), len(row)
    if length < len(prefix):
        return [prefix[length]]
    tokens = [
        token
        for token in range(V)
        if allowed(token, length, least, most, prefix, config) and not ruled_out(ids, token, config, forbidden)
    ]
    if closing and prefix and length == len(prefix) and not closing & set(prefix[1:]):
        tokens = [token for token in tokens if token in closing or token == EOS]
    return tokens or [EOS]


def beam_search(models, source, config, prefix=(), forbidden=(), outputs=(), closing=None):
    """List of (ids, score, log-probabilities of each token and EOS), the best first."""
    K = config.beam_size
    least, most = (0, max(map(len, outputs))) if outputs else bounds(source, prefix, config)
    live, finished = [([], 0.0, [])], []
    for length in range(most + 1):
        prefixes = [ids for ids, _, _ in live]
        log_linear = config.ensemble == "log_linear"
        rated = next_log_probabilities(
            models, source, prefixes, config.ensemble_weights, log_linear, config.temperature, config.eos_scale
        )
        candidates = [
            (total + row[token], ids, token, [*values, row[token]])
            for (ids, total, values), row in zip(live, rated, strict=True)
            for token in choices(ids, row, least, most, prefix, config, forbidden, outputs, closing)
            if row[token] > -math.inf
        ]
        candidates.sort(key=lambda candidate: -candidate[0])
        live = []
        for rank, (total, ids, token, values) in enumerate(candidates):
            if token != EOS and len(live) < K:
                live.append(([*ids, token], total, values))
            if token == EOS and rank < K:
                finished.append((ids, normalised(total, length, config), values))
        if ended(config, finished, live, length):
            break
    return sorted(finished, key=lambda hypothesis: -hypothesis[1])[: config.n_best]


def ended(config, finished, live, length):
    """Whether a beam search ends at a length; hypotheses that are too many leave the finished ones."""
    K = config.beam_size
    if config.stopping == "first_finished" or (config.stopping == "worst_finished" and K == 1):
        del finished[K:]
        return len(finished) == K or not live
    if config.stopping == "worst_finished" and live and len(finished) >= K:
        worst = sorted((score for _, score, _ in finished), reverse=True)[K - 1]
        return normalised(live[0][1], length, config) <= worst
    return not live


def covered(ids, phrase):
    """Tokens of a phrase that a sequence covers: all once it holds it, else the longest beginning that it ends with."""
    if holds(ids, phrase):
        return len(phrase)
    return max(m for m in range(len(phrase)) if m <= len(ids) and ids[len(ids) - m :] == phrase[:m])


def in_turns(candidates, bank):
    """The best of every bank, the fullest bank first; then the second of every bank, and so on."""
    banks = defaultdict(list)
    for candidate in sorted(candidates, key=lambda candidate: -candidate[0]):
        banks[bank(candidate)].append(candidate)
    rounds = itertools.zip_longest(*(banks[key] for key in sorted(banks, reverse=True)))
    return [candidate for turn in rounds for candidate in turn if candidate is not None]


def constrained_beam_search(models, source, config, phrases, prefix=(), forbidden=()):
    """As `beam_search`, by dynamic beam allocation."""
    K = config.beam_size
    least, most = bounds(source, prefix, config)
    live, finished = [([], 0.0, [])], []

    def lacks(ids):
        return sum(not holds(ids, phrase) for phrase in phrases)

    def bank(candidate):
        _, ids, token, _ = candidate
        return sum(covered(ids if token == EOS else [*ids, token], phrase) for phrase in phrases)

    for length in range(most + 1):
        rated = next_log_probabilities(models, source, [ids for ids, _, _ in live])
        candidates, ends = [], []
        for (ids, total, values), row in zip(live, rated, strict=True):
            tokens = choices(ids, row, least, most, prefix, config, forbidden)
            if EOS in tokens:
                ends.append((total + row[EOS], ids, EOS, [*values, row[EOS]]))
            best = sorted((token for token in tokens if token != EOS), key=lambda token: -row[token])
            wanted = {phrase[covered(ids, phrase)] for phrase in phrases if not holds(ids, phrase)}
            for token in {*best[:K], *(wanted & {*best})}:
                candidates.append((total + row[token], ids, token, [*values, row[token]]))
        whole = [end for end in ends if not lacks(end[1])]
        counted = [end for end in in_turns(candidates + whole, bank)[:K] if end[2] == EOS]
        if not candidates and not counted and not finished:
            fewest = min(lacks(ids) for _, ids, _, _ in ends)
            counted = [end for end in ends if lacks(end[1]) == fewest]
        new = [(ids, normalised(total, length, config), values) for total, ids, _, values in counted]
        finished += sorted(new, key=lambda hypothesis: -hypothesis[1])
        if config.stopping == "first_finished" and len(finished) >= K:
            finished = finished[:K]
            break
        live = [([*ids, token], total, values) for total, ids, token, values in in_turns(candidates, bank)[:K]]
        if not live:
            break
    return sorted(finished, key=lambda hypothesis: -hypothesis[1])[: config.n_best]


def diverse_beam_search(models, source, config, prefix=(), forbidden=()):
    """As `beam_search`, in groups that choose one after another."""
    k = config.beam_size // config.diverse_groups
    least, most = bounds(source, prefix, config)
    live = [[([], 0.0, [])] for _ in range(config.diverse_groups)]
    finished = [[] for _ in live]
    for length in range(most + 1):
        counts = Counter()
        for g, rows in enumerate(live):
            rated = next_log_probabilities(models, source, [ids for ids, _, _ in rows]) if rows else []
            candidates = [
                (total + row[token] - config.diverse_strength * counts[token], total + row[token], ids, token, values)
                for (ids, total, values), row in zip(rows, rated, strict=True)
                for token in choices(ids, row, least, most, prefix, config, forbidden)
            ]
            candidates.sort(key=lambda candidate: -candidate[0])
            live[g], chosen, ended = [], Counter(), []
            for rank, (_, total, ids, token, values) in enumerate(candidates):
                values = [*values, total - sum(values)]
                if token != EOS and len(live[g]) < k:
                    live[g].append(([*ids, token], total, values))
                    chosen[token] += 1
                if token == EOS and rank < k:
                    ended.append((ids, normalised(total, length, config), values))
                    chosen[EOS] += 1
            finished[g] += sorted(ended, key=lambda hypothesis: -hypothesis[1])
            counts += chosen
        if config.stopping == "first_finished":
            finished = [group[:k] for group in finished]
            if all(len(group) == k or not rows for group, rows in zip(finished, live, strict=True)):
                break
        if not any(live):
            break
    best = [hypothesis for group in finished for hypothesis in sorted(group, key=lambda h: -h[1])[:k]]
    return sorted(best, key=lambda hypothesis: -hypothesis[1])[: config.n_best]


def every_hypothesis(models, source, config, prefix=()):
    """All that the limits allow, as `beam_search` returns them, the best first: brute force."""
    least, most = bounds(source, prefix, config)
    V = models[0].target_vocabulary_size
    found = []
    for length in range(least, most + 1):
        for ids in itertools.product([token for token in range(V) if token != EOS], repeat=length):
            path = [*ids, EOS]
            if all(allowed(token, place, least, most, prefix, config) for place, token in enumerate(path)):
                values = score(models, source, list(ids))
                found.append((list(ids), normalised(sum(values), length, config), values))
    return sorted(found, key=lambda hypothesis: -hypothesis[1])


def score(models, source, ids):
    """Log-probability of each token of a target and of EOS."""
    path = [*ids, EOS]
    rated = [next_log_probabilities(models, source, [path[:place]])[0] for place in range(len(path))]
    return [row[token] for row, token in zip(rated, path, strict=True)]
