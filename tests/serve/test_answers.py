import gzip

import pytest

from tests.serve.harbour import Speaker, tensor


@pytest.mark.parametrize("headers", [(), ("Content-Encoding: gzip",)])
@pytest.mark.parametrize(
    ("parameters", "status"),
    [
        ({"timeout": 1_000_000, "priority": 1}, 200),
        ({"timeout": "1000000"}, 200),
        ({"timeout": -1}, 400),
        ({"priority": 1.5}, 400),
        ({"sequence_id": 7}, 400),
        ({"binary_data_output": "yes"}, 400),
    ],
)
def test_the_words_of_triton_are_heeded_in_plain_json_too(sea, headers, parameters, status):
    content = tensor([[1, 2]], parameters=parameters)
    with Speaker(sea[0].url) as speaker:
        code, _, said = speaker.say(gzip.compress(content) if headers else content, headers=headers)
    assert code == status and (status == 200 or next(iter(parameters)).encode() in said)
