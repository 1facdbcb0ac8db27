"""Pipes between sockets: every byte that went in comes out, and no pipe is used twice with something in it."""

from __future__ import annotations

import os
import socket

import pytest

from carrier.hops.splice import Pipe, Pool


@pytest.fixture
def line():
    """from_us -> source == pipe => target -> to_us"""
    from_us, source = socket.socketpair()
    target, to_us = socket.socketpair()
    for sock in (from_us, source, target, to_us):
        sock.setblocking(False)
    pipe = Pipe()
    yield from_us, source, pipe, target, to_us
    pipe.close()
    for sock in (from_us, source, target, to_us):
        sock.close()


def test_what_is_filled_in_is_drained_out(line):
    from_us, source, pipe, target, to_us = line
    from_us.send(b"through the kernel")
    assert pipe.fill(source.fileno()) == 18 == pipe.held
    assert pipe.drain(target.fileno()) == 18
    assert (pipe.held, to_us.recv(99)) == (0, b"through the kernel")


def test_nothing_there_and_the_end_are_told_apart(line):
    from_us, source, pipe, _, _ = line
    with pytest.raises(BlockingIOError):
        pipe.fill(source.fileno())
    from_us.close()
    assert pipe.fill(source.fileno()) == 0


def test_a_full_target_leaves_the_rest_in_the_pipe_and_nothing_is_lost(line):
    from_us, source, pipe, target, to_us = line
    target.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    sent, got = os.urandom(1 << 20), b""
    left = memoryview(sent)
    stuck = 0
    while len(got) < len(sent):
        if left:
            try:
                left = left[from_us.send(left) :]
            except BlockingIOError:
                pass
        if not pipe.held:
            pipe.fill(source.fileno())
        pipe.drain(target.fileno())
        stuck += pipe.held > 0
        try:
            got += to_us.recv(1 << 16)
        except BlockingIOError:
            pass
    assert got == sent
    assert stuck


def test_a_broken_target_is_an_error_and_the_bytes_are_still_counted(line):
    from_us, source, pipe, target, to_us = line
    to_us.close()
    from_us.send(b"nobody wants this")
    pipe.fill(source.fileno())
    with pytest.raises(BrokenPipeError):
        pipe.drain(target.fileno())
    assert pipe.held == 17


def test_a_pool_gives_back_what_it_was_given_and_no_more_than_its_limit():
    pool = Pool(2)
    one, two = pool.take(), pool.take()
    assert one is not two
    assert pool.take() is None
    pool.give_back(one)
    assert pool.take() is one
    for pipe in (one, two):
        pool.give_back(pipe)
    assert (pool.made, len(pool.idle)) == (2, 2)
    for pipe in pool.idle:
        pipe.close()


def test_a_pipe_with_something_in_it_is_closed_and_not_used_again(line):
    from_us, source, _, _, _ = line
    pool = Pool(1)
    pipe = pool.take()
    from_us.send(b"secret")
    pipe.fill(source.fileno())
    pool.give_back(pipe)
    assert (pool.made, pool.idle) == (0, [])
    with pytest.raises(OSError):
        os.fstat(pipe.reader)
    other = pool.take()
    assert other is not None
    other.close()


def test_where_there_is_no_splice_there_is_no_pipe(monkeypatch):
    monkeypatch.setattr("carrier.hops.splice.AVAILABLE", False)
    assert Pool().take() is None
