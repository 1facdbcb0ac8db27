"""The pace of sockets that take batches: at once while little comes, by ticks while very much does, and who is not called any more."""

from __future__ import annotations

import asyncio
import os
import select
import socket
from contextlib import suppress
from time import monotonic

import pytest

from carrier.hops import pace
from carrier.hops.pace import FEW, INTERVAL, LOOKS, MANY, PAUSE, SOCKETS, Ticks, Timer, unwatch, watch


class Ear:
    """A socket that is watched, and one that it hears. What it hears counts as `worth` datagrams."""

    def __init__(self, worth=1):
        self.loop, self.worth, self.heard = asyncio.get_running_loop(), worth, []
        self.sock, self.mouth = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.setblocking(False)
        self.something = asyncio.Event()
        self.on = False
        self.start()

    def start(self):
        self.on = True
        watch(self.loop, self.sock.fileno(), self.readable)

    def readable(self):
        self.heard.append(self.sock.recv(99))
        self.something.set()
        return self.worth

    def stop(self):
        if self.on:
            self.on = False
            unwatch(self.loop, self.sock.fileno())

    async def hears(self, data=b"x"):
        self.something.clear()
        self.mouth.send(data)
        await asyncio.wait_for(self.something.wait(), 5)

    def close(self):
        self.stop()
        self.sock.close()
        self.mouth.close()

    @property
    def ticks(self):
        return pace._paces[self.loop].ticks

    async def until_ticks(self):
        """Have very much come."""
        self.worth = 1_000_000
        for _ in range(3 * LOOKS):
            await self.hears()
            if self.ticks is not None:
                return
        raise AssertionError("it does not tick")

    async def until_no_ticks(self):
        for _ in range(500):
            if self.ticks is None:
                return
            await asyncio.sleep(INTERVAL * LOOKS)
        raise AssertionError("it goes on ticking")


@pytest.fixture
async def ear():
    made = Ear()
    yield made
    made.close()
    assert made.loop not in pace._paces


@pytest.fixture
async def other():
    made = Ear()
    yield made
    made.close()


def is_open(fd):
    with suppress(OSError):
        os.fstat(fd)
        return True
    return False


async def test_what_comes_is_heard_as_it_comes(ear):
    await ear.hears(b"one")
    await ear.hears(b"two")
    assert ear.heard == [b"one", b"two"]
    ear.stop()
    ear.mouth.send(b"three")
    await asyncio.sleep(0.005)
    assert ear.heard == [b"one", b"two"]


async def test_little_makes_no_ticks_however_many_wake_ups_it_takes(ear):
    ear.worth = 0
    for _ in range(3 * LOOKS):
        await ear.hears()
    assert ear.ticks is None


async def test_very_much_is_heard_by_ticks_from_each_one_who_has_something(ear, other):
    await ear.until_ticks()
    await ear.hears(b"by a tick")
    await other.hears(b"by a tick")
    assert (ear.heard[-1], other.heard[-1]) == (b"by a tick", b"by a tick")
    assert ear.ticks.fds == {ear.sock.fileno(), other.sock.fileno()}


async def test_ticks_that_find_few_end_and_there_are_none_for_a_while(ear, other):
    await ear.until_ticks()
    await other.hears()
    await ear.until_no_ticks()
    for each in (ear, other):
        await each.hears(b"woken")
        assert each.heard[-1] == b"woken"
    until = pace._paces[ear.loop].until
    assert 0 < until - monotonic() <= PAUSE
    for _ in range(2 * LOOKS):
        await ear.hears()
        assert ear.ticks is None or monotonic() >= until
    pace._paces[ear.loop].until = 0.0
    await ear.until_ticks()


async def test_the_last_one_that_stops_ends_the_ticks_and_releases_their_descriptors(ear):
    await ear.until_ticks()
    fds = ear.ticks.timer.fd, ear.ticks.epoll.fileno()
    assert all(map(is_open, fds))
    ear.stop()
    assert not any(map(is_open, fds))
    assert ear.loop not in pace._paces


@pytest.mark.parametrize("ticking", [False, True])
async def test_the_last_one_may_stop_while_it_is_called(ear, ticking):
    if ticking:
        await ear.until_ticks()
        await ear.hears()

    def readable():
        ear.stop()
        ear.something.set()
        return 1

    ear.stop()
    ear.start()
    pace._paces[ear.loop].callbacks[ear.sock.fileno()] = readable
    await ear.hears()
    assert ear.loop not in pace._paces


async def test_who_is_stopped_by_one_called_before_in_a_tick_is_not_called(ear, other):
    await ear.until_ticks()
    await ear.hears()
    await other.hears()
    both = {ear, other}

    def only(which):
        def readable():
            for each in both - {which}:
                each.stop()
            return which.readable()

        return readable

    for each in both:
        each.heard.clear()
        each.mouth.send(b"x")
        pace._paces[ear.loop].callbacks[each.sock.fileno()] = only(each)
        each.something.clear()
    heard = [asyncio.ensure_future(each.something.wait()) for each in both]
    _, waits = await asyncio.wait(heard, timeout=5, return_when=asyncio.FIRST_COMPLETED)
    await asyncio.sleep(5 * INTERVAL)
    for wait in waits:
        wait.cancel()
    assert sorted([ear.heard, other.heard]) == [[], [b"x"]]


async def test_more_than_are_looked_at_in_one_tick_are_all_heard(ear):
    await ear.until_ticks()
    await ear.hears()  # which moves it
    ears = [Ear(1_000_000) for _ in range(SOCKETS + 5)]
    for _ in range(2):
        for each in ears:
            each.something.clear()
            each.mouth.send(b"x")
        for each in ears:
            await asyncio.wait_for(each.something.wait(), 5)
    assert len(ear.ticks.fds) == len(ears) + 1
    for each in ears:
        each.close()


async def test_without_a_descriptor_there_are_no_ticks_and_all_are_heard(ear, monkeypatch):
    def no_descriptor():
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(pace, "Ticks", no_descriptor)
    ear.worth = 1_000_000
    for _ in range(2 * LOOKS):
        await ear.hears()
    assert ear.ticks is None
    assert len(ear.heard) == 2 * LOOKS
    assert pace._paces[ear.loop].until > monotonic() - PAUSE


def test_ticks_that_get_one_descriptor_of_two_give_it_back(monkeypatch):
    made = []

    def no_descriptor():
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(pace, "Timer", lambda: made.append(Timer()) or made[0])
    monkeypatch.setattr(select, "epoll", no_descriptor)
    with pytest.raises(OSError, match="Too many"):
        Ticks()
    assert not is_open(made[0].fd)


async def test_who_cannot_be_looked_at_by_ticks_goes_on_waking_the_loop(ear, other, monkeypatch):
    await ear.until_ticks()

    def refused(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ear.ticks, "add", refused)
    await other.hears(b"one")
    await other.hears(b"two")
    assert other.heard == [b"one", b"two"]
    assert other.sock.fileno() not in ear.ticks.fds


def test_a_timer_fires_once_after_it_was_set():
    timer = Timer()
    with select.epoll() as epoll:
        epoll.register(timer.fd, select.EPOLLIN)
        assert epoll.poll(0) == []
        for _ in range(2):  # to set it again takes back that it was readable
            timer.set()
            assert epoll.poll(5) == [(timer.fd, select.EPOLLIN)]
    timer.close()


def test_what_ends_ticks_is_less_than_what_begins_them():
    assert 0 < FEW < MANY
