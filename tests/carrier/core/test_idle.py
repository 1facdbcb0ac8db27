"""How long a stream may be still: measured from its last move, by one of two limits."""

from carrier.core.idle import Idle


class Source:
    bytes_in = bytes_out = messages_in = messages_out = size = 0


def test_stillness_is_measured_from_the_last_move() -> None:
    idle, source = Idle(3, 10), Source()
    assert idle.overdue(source, 100.0) is None  # type: ignore[arg-type]
    source.messages_in = 1  # an empty message is a move, too
    assert idle.overdue(source, 101.0) is None  # type: ignore[arg-type]
    assert idle.overdue(source, 104.0) is None  # type: ignore[arg-type]
    error = idle.overdue(source, 104.1)  # type: ignore[arg-type]
    assert error is not None and error.kind == "timeout" and "options.idle_timeout" in error.detail
    idle.forget(source)
    assert not idle.seen


def test_half_a_stream_has_a_limit_of_its_own() -> None:
    idle, source = Idle(3, 10), Source()
    idle.overdue(source, 100.0)  # type: ignore[arg-type]
    assert idle.overdue(source, 109.0, half=True) is None  # type: ignore[arg-type]
    error = idle.overdue(source, 111.0, half=True)  # type: ignore[arg-type]
    assert error is not None and "options.half_close_timeout" in error.detail


def test_what_only_waits_to_be_written_has_not_moved() -> None:
    idle, source = Idle(3), Source()
    idle.overdue(source, 100.0)  # type: ignore[arg-type]
    source.bytes_out = source.size = 5000
    assert idle.overdue(source, 104.0) is not None  # type: ignore[arg-type]
    source.size = 4000
    assert idle.overdue(source, 105.0) is None  # type: ignore[arg-type]


def test_zero_is_no_limit_and_nobody_is_remembered() -> None:
    idle, source = Idle(0), Source()
    assert idle.overdue(source, 100.0) is None and not idle.seen  # type: ignore[arg-type]


def test_a_new_limit_counts_from_when_a_source_last_moved() -> None:
    old, new, source = Idle(100), Idle(3), Source()
    old.overdue(source, 100.0)  # type: ignore[arg-type]
    new.inherit(old)
    assert new.overdue(source, 104.0) is not None  # type: ignore[arg-type]
