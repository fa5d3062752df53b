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

"""Pairing of two streams: order, jitter, gaps, delays, duplicates and clocks that jump."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aliked_ros.ros.pairing import Pair, Pairing, Synchronizer

MS = 1_000_000
WAIT = 0.1


class Streams:
    """Plays events in the order of their arrival, with a timer as a node has it."""

    def __init__(self, tolerance: float = 0.0) -> None:
        self.pairing: Pairing[int, int] = Pairing(tolerance, WAIT)
        self.released: list[tuple[float, Pair[int, int]]] = []

    def play(self, images: dict[int, float], partners: dict[int, float]) -> None:
        """Stamps (ns) and when they arrive (s)."""
        events = [(now, True, stamp) for stamp, now in images.items()]
        events += [(now, False, stamp) for stamp, now in partners.items()]
        for now, is_image, stamp in sorted(events):
            self.run_timer(now)
            add = self.pairing.add_image if is_image else self.pairing.add_partner
            self.keep(now, add(stamp, stamp, now))

    def run_timer(self, until: float) -> None:
        while (deadline := self.pairing.deadline) is not None and deadline <= until:
            self.keep(deadline, self.pairing.release(deadline))

    def finish(self) -> list[Pair[int, int]]:
        self.run_timer(float("inf"))
        assert len(self.pairing) == 0
        return [pair for _, pair in self.released]

    def keep(self, now: float, pairs) -> None:
        self.released += [(now, pair) for pair in pairs]


def stamps(count: int, start: int = 0, step: int = 33) -> list[int]:
    return [(start + i * step) * MS for i in range(count)]


def arriving(times: list[int], delay: float = 0.0) -> dict[int, float]:
    return {stamp: stamp * 1e-9 + delay for stamp in times}


@pytest.mark.parametrize("delay", [-0.02, 0.0, 0.03, 0.09])
def test_equal_stamps_are_paired_at_once_whichever_comes_first(delay):
    streams = Streams()
    times = stamps(10)
    streams.play(arriving(times), arriving(times, delay))
    assert [pair.image for pair in streams.finish()] == times
    for now, pair in streams.released:
        assert pair.partner == pair.image
        assert pair.offset == 0.0
        assert now == pytest.approx(pair.image * 1e-9 + max(0.0, delay))


def test_a_lost_partner_costs_only_its_own_image():
    streams = Streams()
    times = stamps(10)
    streams.play(arriving(times), arriving([t for t in times if t != times[4]], 0.005))
    released = streams.finish()
    assert [pair.image for pair in released] == times
    assert [pair.partner for pair in released] == [t if t != times[4] else None for t in times]
    assert released[4].offset == pytest.approx(0.033)  # the next one's, which sent it on
    assert streams.released[4][0] <= times[4] * 1e-9 + WAIT


def test_without_partners_every_image_goes_on_after_its_wait():
    streams = Streams()
    times = stamps(10)
    streams.play(arriving(times), {})
    assert [pair.image for pair in streams.finish()] == times
    for now, pair in streams.released:
        assert (pair.partner, pair.offset) == (None, None)
        assert now == pytest.approx(pair.image * 1e-9 + WAIT)


def test_a_partner_beyond_the_wait_is_too_late():
    streams = Streams()
    times = stamps(5, step=200)
    streams.play(arriving(times), arriving(times, WAIT + 0.01))
    released = streams.finish()
    assert [pair.image for pair in released] == times
    assert not any(pair.partner for pair in released[1:])
    assert released[3].offset == pytest.approx(-0.2)  # the newest known is of the image before
    assert streams.pairing.delay == pytest.approx(WAIT + 0.01)
    streams.play({1000 * MS: 1.5}, {1000 * MS: 1.55})
    assert streams.finish()[-1].partner == 1000 * MS
    assert streams.pairing.delay is None


@pytest.mark.parametrize("offset", [-15, -5, 5, 15])
def test_unsynchronised_cameras_are_measured(offset):
    """With a tolerance below the offset all go alone, each with the offset; above it, paired."""
    times = stamps(20, start=100)
    others = [t + offset * MS for t in times]
    strict, tolerant = Streams(0.004), Streams(0.016)
    for streams in (strict, tolerant):
        streams.play(arriving(times), arriving(others, 0.001))
    assert strict.pairing.delay is None
    for pair in strict.finish()[1:-1]:
        assert pair.partner is None
        assert pair.offset == pytest.approx(offset * 1e-3)
    for pair in tolerant.finish():
        assert pair.partner == pair.image + offset * MS
        assert pair.offset == pytest.approx(offset * 1e-3)
    delays = [now - pair.image * 1e-9 for now, pair in tolerant.released]
    assert max(delays[2:]) <= 0.02  # once the rhythm is known, nobody waits for the next partner


def test_a_nearer_partner_that_comes_later_is_preferred():
    streams = Streams(tolerance=0.02)
    streams.play({100 * MS: 0.101}, {85 * MS: 0.09, 102 * MS: 0.103})
    assert streams.finish() == [Pair(100 * MS, 102 * MS, pytest.approx(0.002))]
    alone = Streams(tolerance=0.02)
    alone.play({100 * MS: 0.101}, {85 * MS: 0.09})
    assert alone.finish() == [Pair(100 * MS, 85 * MS, pytest.approx(-0.015))]
    assert alone.released[0][0] == pytest.approx(0.101 + WAIT)


def test_jitter_of_stamps_and_of_arrival():
    random.seed(4)
    times = stamps(100, start=100)
    others = [t + random.randrange(-6, 7) * MS for t in times]
    streams = Streams(tolerance=0.012)
    streams.play(
        {t: t * 1e-9 + random.uniform(0.0, 0.03) for t in times},
        {t: t * 1e-9 + random.uniform(0.0, 0.03) for t in others},
    )
    released = streams.finish()
    assert sorted(pair.image for pair in released) == times
    partners = dict(zip(times, others, strict=True))
    assert all(pair.partner in (None, partners[pair.image]) for pair in released)
    assert sum(pair.partner is not None for pair in released) >= 80  # overtaken ones go alone


def test_duplicates_get_the_same_partner():
    pairing: Pairing[str, str] = Pairing(0.0, WAIT)
    assert not pairing.add_partner(5, "right", 0.0)
    assert pairing.add_image(5, "left", 0.01) == [Pair("left", "right", 0.0)]
    assert not pairing.add_partner(5, "right again", 0.02)
    assert pairing.add_image(5, "left again", 0.03) == [Pair("left again", "right again", 0.0)]


@pytest.mark.parametrize("first", ["image", "partner"])
def test_a_clock_that_jumps_back(first):
    """A bag in a loop: pairs go on, whichever stream jumps first."""
    pairing: Pairing[int, int] = Pairing(0.0, WAIT)
    now, released = 0.0, []
    for _ in range(3):
        for stamp in stamps(30, start=1000):
            now += 0.033
            steps = [pairing.add_image, pairing.add_partner]
            for add in steps if first == "image" else reversed(steps):
                released += add(stamp, stamp, now)
    assert len(released) == 90
    assert all(pair.image == pair.partner for pair in released)


def test_stamps_of_another_clock_are_measured():
    pairing: Pairing[int, int] = Pairing(0.02, WAIT)
    pairing.add_partner(40 * 10**9, 0, 0.0)
    assert not pairing.add_image(1_700_000_000 * 10**9, 0, 0.0)
    assert pairing.release(WAIT) == [Pair(0, None, pytest.approx(40 - 1.7e9))]


def test_the_queues_are_bounded():
    pairing: Pairing[int, int] = Pairing(0.0, wait=1e6)
    released = []
    for stamp in range(1000):
        released += pairing.add_image(2 * stamp, stamp, 0.0)
        released += pairing.add_partner(2 * stamp + 1, stamp, 0.0)
    assert len(pairing) <= 20
    assert [pair.image for pair in released] == list(range(len(released)))
    assert len(pairing._partners) <= 20


@given(
    st.lists(
        st.tuples(st.booleans(), st.integers(0, 400), st.floats(0, 0.05)), min_size=1, max_size=60
    ),
    st.sampled_from([0.0, 0.01, 0.1]),
)
@settings(max_examples=300, deadline=None)
def test_whatever_comes_every_image_leaves_once_in_order_and_in_time(events, tolerance):
    pairing: Pairing[tuple[int, int], int] = Pairing(tolerance, WAIT)
    now, arrived, released = 0.0, {}, []

    def advance(until: float) -> None:
        while (deadline := pairing.deadline) is not None and deadline <= until:
            released.extend((deadline, pair) for pair in pairing.release(deadline))

    for number, (is_image, milliseconds, pause) in enumerate(events):
        now += pause
        advance(now)
        stamp = milliseconds * MS
        if is_image:
            arrived[number] = now
            pairs = pairing.add_image(stamp, (number, stamp), now)
        else:
            pairs = pairing.add_partner(stamp, stamp, now)
        released.extend((now, pair) for pair in pairs)
    advance(float("inf"))
    order = [pair.image[0] for _, pair in released]
    assert order == sorted(arrived)
    assert all(before < after for before, after in pairwise(order))
    for time, pair in released:
        number, stamp = pair.image
        assert time <= arrived[number] + WAIT + 1e-9
        if pair.partner is not None:
            assert abs(pair.partner - stamp) <= tolerance * 1e9
            assert pair.offset == pytest.approx((pair.partner - stamp) * 1e-9)
        elif pair.offset is not None:
            assert abs(pair.offset) > tolerance


@pytest.fixture(scope="module")
def message_filters():
    return pytest.importorskip(
        "message_filters", reason="message_filters comes with ROS, not from wheels"
    )


def header(stamp: int):
    """A message of which only the header matters."""
    from std_msgs.msg import Header

    from aliked_ros.ros.conversions import stamp_from_seconds

    class Message:
        header = Header(stamp=stamp_from_seconds(stamp * 1e-9))

    return Message()


def synchronised(kind, module, images: list[int], partners: list[int], *args, **options):
    """The pairs of stamps that come out of a synchronizer fed by message_filters' own filters."""
    inputs = [module.SimpleFilter(), module.SimpleFilter()]
    synchronizer, found = kind(inputs, *args, **options), []

    def keep(image, partner, name):
        assert name == "extra"
        stamps = [None if m is None else m.header.stamp.nanosec // MS for m in (image, partner)]
        found.append(tuple(stamps))

    synchronizer.registerCallback(keep, "extra")
    events = [(stamp, 0) for stamp in images] + [(stamp + 5 * MS, 1) for stamp in partners]
    for stamp, which in sorted(events):
        inputs[which].signalMessage(header(stamp - 5 * MS * which))
    return found, synchronizer


@pytest.mark.parametrize("offset", [0, 4])
def test_ours_stands_in_for_message_filters_and_the_reverse(message_filters, offset):
    """The same arguments and callback, pairs one after another, one partner lost."""
    images = stamps(12)
    partners = [t + offset * MS for t in images if t != images[5]]
    expected = [(t // MS, t // MS + offset) for t in images if t != images[5]]
    kinds = [(Synchronizer, (20, 0.01)), (message_filters.ApproximateTimeSynchronizer, (20, 0.01))]
    if not offset:
        kinds += [(Synchronizer, (20,)), (message_filters.TimeSynchronizer, (20,))]
    for kind, args in kinds:
        found, _ = synchronised(kind, message_filters, images, partners, *args)
        assert found == expected, kind


def test_an_image_alone_goes_on_where_message_filters_drops_it(message_filters):
    images = stamps(3)
    partners = [images[0], images[2]]
    found, _ = synchronised(Synchronizer, message_filters, images, partners, 20, alone=True)
    assert found == [(0, 0), (33, None), (66, 66)]
    found, waiting = synchronised(
        Synchronizer, message_filters, images, partners[:1], 20, wait=0.0, alone=True
    )
    waiting.release()
    assert found[1:] == [(33, None), (66, None)]


def test_a_filter_may_follow_ours(message_filters):
    """A pair's image goes on into message_filters' Cache, as from any filter."""
    images = [message_filters.SimpleFilter() for _ in range(2)]
    pairs = Synchronizer(images, 5)

    class First(message_filters.SimpleFilter):
        def __init__(self):
            super().__init__()
            pairs.registerCallback(lambda image, _: self.signalMessage(image))

    cache = message_filters.Cache(First(), 5)
    for stamp in stamps(3):
        for one in images:
            one.signalMessage(header(stamp))
    assert len(cache.cache_msgs) == 3
