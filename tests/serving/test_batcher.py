"""Who is decoded when, with a translator that takes a millisecond for a token and remembers what it was given."""

import threading
import time
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import replace
from itertools import count

import pytest

from s2s.decoding.config import DecodeConfig
from s2s.decoding.hypothesis import Translation
from s2s.errors import Failure
from s2s.serving.batcher import Batcher, Closed, Full, Job
from s2s.serving.cost import cost, measure
from tests.serving.server import until

GREEDY = DecodeConfig(beam_size=1, max_length_a=1, max_length_b=0)


class Paced:
    """A sentence takes a step for each of its tokens; those of a batch take their steps together."""

    max_length = None
    length = staticmethod(len)

    def __init__(self):
        self.batches, self.begun, self.may = [], 0, threading.Event()
        self.may.set()

    def decode(self, windows, config, seed, first, tick):
        sources = windows[0].sources
        self.begun += 1
        self.batches.append((sources, config, seed, first))
        self.may.wait(30)
        done = 0
        for step in count(1):
            tick()
            time.sleep(0.001)
            while len(sources[done]) <= step:
                ids = sources[done]
                if 13 in ids:
                    raise Failure("unlucky")
                yield [Translation(ids, 0.0, 0.0, [], text=str(ids[0]), tokens=[])]
                done += 1
                if done == len(sources):
                    return


@contextmanager
def batching(seconds=0.02, lines=64, waiting=1000):
    """A batcher by whose measure a token takes a millisecond, and its translator."""
    translator = Paced()
    batcher = Batcher(translator, 2000, seconds, lines, 0, waiting)

    def submit(caller, lengths, config=GREEDY, seed=1):
        """Lines of so many tokens, each of which is the caller's number."""
        return batcher.submit(Job.of(translator, [[caller] * length for length in lengths], config, seed, str(caller)))

    try:
        yield batcher, translator, submit
    finally:
        translator.may.set()
        batcher.cancel()
        assert batcher.close(30)


def callers(batch):
    return [source[0] for source in batch[0]]


def test_a_short_request_does_not_wait_for_the_whole_of_a_huge_one():
    with batching() as (_, translator, submit):
        huge = submit(1, [5] * 2000)
        until(lambda: translator.begun >= 2)
        begun, short = translator.begun, submit(2, [3])
        assert short.result(30)[0][0].text == "2"
        assert translator.begun <= begun + 2
        assert not huge.done()


def test_callers_take_turns_with_their_lines():
    with batching(seconds=10, lines=6) as (_, translator, submit):
        translator.may.clear()
        first = submit(9, [1])
        until(lambda: translator.begun == 1)
        all_of_it = [submit(1, [2] * 10), submit(1, [2] * 10), submit(2, [2] * 4), submit(3, [2] * 20)]
        translator.may.set()
        for future in [first, *all_of_it]:
            future.result(30)
    held = [sorted(callers(batch)) for batch in translator.batches]
    assert held[:4] == [[9], [1, 1, 2, 2, 3, 3], [1, 1, 2, 2, 3, 3], [1, 1, 1, 3, 3, 3]]
    assert sum(map(len, held)) == 45


def test_a_batch_holds_what_takes_its_time_and_a_line_that_takes_more_is_alone():
    with batching(seconds=0.1) as (_, translator, submit):
        translator.may.clear()
        first = submit(9, [1])
        until(lambda: translator.begun == 1)
        futures = [first, submit(1, [500]), submit(2, [20] * 9)]
        translator.may.set()
        for future in futures:
            future.result(30)
    sizes = [len(sources) for sources, *_ in translator.batches]
    assert sizes[1] == 1  # 500 tokens
    assert all(2 <= size <= 5 for size in sizes[2:-1])  # a line costs 20 + 21 and a bit, a batch at first 200


def test_a_long_line_gives_way_to_short_ones_and_is_done_all_the_same():
    with batching() as (_, translator, submit):
        start = time.monotonic()
        long = submit(1, [400])
        until(lambda: translator.begun == 1)
        short = 0
        while not long.done():
            submit(2, [5]).result(30)
            short += 1
        assert time.monotonic() - start < 10
        assert short > 5


def test_the_longer_a_line_the_later_it_is_done():
    with batching() as (_, translator, submit):
        done = []
        for number, length in enumerate((900, 150, 5), 1):
            submit(number, [length]).add_done_callback(lambda future: done.append(future.result()[0][0].text))
            until(lambda number=number: translator.begun == number)
        until(lambda: len(done) == 3)
    assert done == ["3", "2", "1"]


def test_samples_are_decoded_alone_with_their_seed_and_their_place_in_the_request():
    samples = [DecodeConfig(search=search, beam_size=1, max_length_a=1, max_length_b=0)
               for search in ("sample", "stochastic_beam")]  # fmt: skip
    with batching(lines=3) as (_, translator, submit):
        translator.may.clear()
        futures = [submit(number, [2] * 4, config, seed=number) for number, config in enumerate(samples * 2, 1)]
        translator.may.set()
        for future in futures:
            future.result(30)
    found = {(callers(batch)[0], batch[3]): (callers(batch), batch[2]) for batch in translator.batches}
    assert found == {(n, first): ([n] * (3 if first == 0 else 1), n) for n in (1, 2, 3, 4) for first in (0, 3)}


def test_only_the_same_options_are_decoded_together():
    with batching(seconds=1) as (_, translator, submit):
        translator.may.clear()
        futures = [submit(9, [1])]
        until(lambda: translator.begun == 1)
        futures += [submit(n, [2], replace(GREEDY, beam_size=1 + n % 2)) for n in range(1, 9)]
        translator.may.set()
        for future in futures:
            future.result(30)
    assert sorted(map(sorted, map(callers, translator.batches[1:]))) == [[1, 3, 5, 7], [2, 4, 6, 8]]


def test_when_many_lines_wait_each_caller_has_a_share():
    with batching(waiting=10) as (batcher, translator, submit):
        translator.may.clear()
        submit(9, [1])
        until(lambda: translator.begun == 1)
        submit(1, [1] * 10)
        for caller, lines in ((1, 1), (2, 6)):
            with pytest.raises(Full):
                submit(caller, [1] * lines)
        submit(2, [1] * 5)
        with pytest.raises(Full):
            submit(3, [1] * 4)
        last = submit(3, [1] * 3)
        assert batcher.waiting == 18
        last.cancel()
        assert batcher.waiting == 15


def test_a_request_that_is_taken_back_is_not_decoded_any_further():
    with batching(lines=4) as (batcher, translator, submit):
        gone, stays = submit(1, [50] * 100), submit(2, [3] * 30)
        until(lambda: translator.begun >= 2)
        gone.cancel()
        stays.result(30)
        until(lambda: not batcher.waiting)
        begun = translator.begun
        time.sleep(0.1)
        assert translator.begun == begun < 30
        with pytest.raises(CancelledError):
            gone.result()


def test_a_failure_is_told_to_its_own_request_only(capsys):
    with batching() as (batcher, translator, submit):
        translator.may.clear()
        first = submit(9, [1])
        until(lambda: translator.begun == 1)
        others = [submit(1, [2] * 3), submit(2, [5])]
        failing = submit(13, [4, 1])
        translator.may.set()
        with pytest.raises(Failure):
            failing.result(30)
        assert [len(future.result(30)) for future in (first, *others)] == [1, 3, 1]
        assert batcher.alive
    assert capsys.readouterr().err == "s2s-serve: decoding failed: Failure: unlucky\n"


def test_a_batcher_finishes_what_it_was_given():
    with batching() as (batcher, translator, submit):
        translator.may.clear()
        futures = [submit(1, [2] * 4), submit(2, [2] * 4), submit(3, [])]
        threading.Timer(0.1, translator.may.set).start()
        assert not batcher.close(0.01)
        assert batcher.close(30)
        assert [len(future.result()) for future in futures] == [4, 4, 0]
        with pytest.raises(Closed):
            submit(1, [2])


def test_cost_is_what_is_computed_at_most():
    config = DecodeConfig(beam_size=4, max_length_a=2, max_length_b=50)
    assert cost(config, 0, None) == 0
    assert cost(config, 10, None) == 317  # (10 + 4 x 71) x (1 + 81 / 1000), rounded down
    assert cost(config, 10, 40) == 178  # (10 + 4 x 40) x 1.05, rounded down
    assert cost(DecodeConfig(search="sample", n_best=3, beam_size=9), 10, None) == 241  # (10 + 3 x 71) x 1.081
    assert cost(config, 5000, None) > 400 * cost(config, 50, None)


def test_speed_is_measured(translator):
    assert 1e2 < measure(translator, DecodeConfig()) < 1e9
    assert 1e2 < measure(translator, DecodeConfig(search="sample", n_best=2)) < 1e9
