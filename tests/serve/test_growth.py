"What a server remembers of strangers is bounded, however many there are."

from seatrial.serve.desk import PATHS_MAX, Desk


def test_urls_that_strangers_make_up_are_forgotten():
    desk = Desk()
    for i in range(2 * PATHS_MAX + 7):
        desk.place(b"/v2/models/n%d/infer" % i)
        assert len(desk.places) <= PATHS_MAX
    assert desk.place(b"/v2/models/sum/infer").model == "sum"
