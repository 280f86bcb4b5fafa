from service.generation.admission import Admission
from service.metrics import Metrics


def test_an_item_that_ends_after_its_request_is_not_counted_twice() -> None:
    admission = Admission(lambda: 10, Metrics())
    with admission.enter(4) as ticket:
        ticket.leave_one()
        assert admission.sequences == 3
    ticket.leave_one()
    assert admission.sequences == 0
