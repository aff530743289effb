import gzip
import json
import select

import pytest

from tests.serve.harbour import Speaker, spelt, tensor


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


@pytest.mark.parametrize(
    ("path", "content", "kind"),
    [
        (
            "/v1/outcomes",
            json.dumps([{"request_id": f"r{i}", "name": "n", "value": 1} for i in range(200_000)]),
            "json",
        ),
        ("/invocations?model=sum", "a,b\n" + "1,2\n" * 2_000_000, "csv"),
    ],
)
def test_nobody_waits_while_something_large_is_read(sea, path, content, kind):
    headers = ["Content-Type: text/csv"] * (kind == "csv")
    with Speaker(sea[0].url, 60) as large, Speaker(sea[0].url) as other:
        large.socket.sendall(spelt(content.encode(), path, headers=headers))
        for _ in range(3):
            assert other.say(path="/v2/health/live", method="GET")[0] == 200
        assert not select.select([large.socket], [], [], 0)[0]  # it is still being read
        assert large.answer()[0] in (200, 413)
