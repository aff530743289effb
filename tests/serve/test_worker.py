import threading
from concurrent.futures import ThreadPoolExecutor

from seatrial.serve.worker import Pool
from tests.serve.harbour import shelve


def test_who_asks_for_an_open_version_does_not_wait_for_another_to_load(tmp_path):
    shelve(tmp_path, {"sum": {"1.0.0": [1.0, 1.0], "1.1.0": [1.0, -1.0]}})
    pool, key = Pool(tmp_path), ("sum", "1.1.0")
    champion = pool.engine("sum", "1.0.0")
    door = pool.doors[key] = threading.Lock()
    with ThreadPoolExecutor(2) as threads:
        with door:  # 1.1.0 is being loaded
            twice = [threads.submit(pool.engine, *key) for _ in range(2)]
            assert pool.engine("sum", "1.0.0") is champion and not any(one.done() for one in twice)
        first, second = (one.result(20) for one in twice)
    assert first is second is pool.engines[key]
