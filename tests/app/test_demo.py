"The voyage's own book-keeping: a loss is counted and does not end well."

import pytest

from seatrial.app.demo import MODEL, accounted, count
from seatrial.app.story import Pace, Story
from seatrial.base.journal import Journal, Outcome, Prediction
from seatrial.base.settings import CannotDo, load


@pytest.fixture
def sailed(place):
    "A story of three answers, of which the journal holds as many as it is given."
    settings = load()
    journal = Journal.open(settings)

    def tell(kept):
        story = Story(settings, Pace(), place)
        story.answered, story.spans["traffic"] = 3, (0.0, 10.0)
        for i in range(kept):
            journal.append([Prediction(f"r{i}", "champion", 5.0, "", MODEL, "1.0.0")])
            journal.append([Outcome(f"r{i}", "rating", 1.0, 6.0)])
        journal.append([Prediction("r0", "shadow", 5.0, "", MODEL, "2.0.0")])
        count(story, journal)
        return story

    yield tell
    journal.close()


def test_an_answer_that_is_not_on_record_is_counted_and_does_not_end_well(sailed):
    story = sailed(kept=2)
    assert story.lost == 1 and story.steps[-1].decided == "1 lost"
    with pytest.raises(CannotDo, match="1 of 3 answered requests are not on record in the journal"):
        accounted(story)


def test_shadow_copies_do_not_stand_in_for_answers(sailed):
    story = sailed(kept=3)
    assert story.lost == 0 and story.steps[-1].decided == "nothing lost"
    accounted(story)
