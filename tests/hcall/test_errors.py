"""Each status but OK has one exception, which says in one sentence what to do next."""

from __future__ import annotations

import pytest

from hcall import errors
from hcall.errors import Busy, HcallError, Internal, ProtocolViolation, Status, failure

CLASSES = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, HcallError)]
WIRE = """OK WOULD_BLOCK BUSY BAD_ARGUMENT BAD_AREA BAD_HANDLE STALE_HANDLE NOT_OPEN NOT_ALLOWED NO_SUCH_CALL NO_MATCH
READ_ONLY NO_SPACE IO_ERROR RESET LINK_LOST INTERNAL"""


def test_the_numbers_are_those_of_the_wire() -> None:
    assert [status.name for status in Status] == WIRE.split()
    assert [status.value for status in Status] == list(range(17))


def test_every_status_but_ok_has_one_class_named_like_it() -> None:
    by_status = {kind.status: kind for kind in CLASSES if kind is not HcallError}
    assert len(by_status) == len(CLASSES) - 1
    assert by_status.keys() == set(Status) - {Status.OK}
    assert by_status == HcallError.by_status
    for status, kind in by_status.items():
        assert kind.__name__ == status.name.title().replace("_", "")


@pytest.mark.parametrize("kind", [*CLASSES, ProtocolViolation])
def test_every_class_says_what_to_do_next(kind: type[Exception]) -> None:
    assert (kind.__doc__ and kind.__doc__.splitlines()[0].endswith((".", ":"))) or kind is ProtocolViolation


@pytest.mark.parametrize("status", [status for status in Status if status is not Status.OK])
def test_a_failure_is_the_exception_of_its_status_with_the_hosts_sentence(status: Status) -> None:
    for number in (status, int(status)):
        error = failure(number, "a sentence")
        assert type(error) is HcallError.by_status[status] and error.status is status
        assert str(error) == "a sentence"


@pytest.mark.parametrize("status", [-1, 17, 1 << 63, 0])
@pytest.mark.spec("K-3")
def test_a_failure_of_no_known_status_is_internal(status: int) -> None:
    assert type(failure(status, "what?")) is Internal


def test_a_second_class_for_a_status_is_refused() -> None:
    with pytest.raises(TypeError, match="already has a class"):
        type("Occupied", (HcallError,), {"status": Status.BUSY})
    assert HcallError.by_status[Status.BUSY] is Busy


def test_an_authors_own_sort_of_an_error_is_one_of_its_kind_and_what_the_wire_brings_stays_what_it_is() -> None:
    own = type("TooBusy", (Busy,), {})
    assert own.status is Status.BUSY and type(failure(Status.BUSY, "")) is Busy
    assert type("MuchTooBusy", (own,), {"status": Status.BUSY}).status is Status.BUSY
    with pytest.raises(TypeError, match="INTERNAL: 16> already has a class: make it a sort of Internal"):
        type("Loose", (HcallError,), {})


@pytest.mark.parametrize("status", [Status.OK, 2, 17, "busy", None])
def test_an_error_has_one_of_the_statuses_that_are_failures(status: object) -> None:
    for base in (HcallError, Busy):
        with pytest.raises(TypeError, match="Strange: the status of an error is one of Status"):
            type("Strange", (base,), {"status": status})


def test_a_violation_is_no_answer_to_a_call_and_has_a_kind() -> None:
    assert not issubclass(ProtocolViolation, HcallError)
    assert ProtocolViolation("why").status is Status.BAD_ARGUMENT
    assert ProtocolViolation("why", Status.NOT_ALLOWED).status is Status.NOT_ALLOWED
