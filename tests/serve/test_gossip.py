import asyncio

import pytest

from seatrial.serve.gossip import asked, door, listening, others
from seatrial.serve.metrics import Tally, answered, merged, state


@pytest.fixture
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("g")  # short: a socket's path may have a hundred characters


def test_what_several_processes_have_counted_is_told_exactly(folder):
    async def story():
        tallies = [Tally() for _ in range(3)]
        servers = [await listening(folder / f"front-{i}.sock", lambda t=t: state(t)) for i, t in enumerate(tallies)]
        for n, tally in enumerate(tallies, 1):
            answered(tally, ("m", "1", "champion"), [0.01] * n, n)
        said = await others(folder)
        for server in servers:
            server.close()
        return merged(said).series["m", "1", "champion"].requests

    assert asyncio.run(story()) == 6


def test_a_process_does_not_ask_itself(folder):
    async def story():
        server = await listening(door(folder), dict)
        said = await others(folder)
        server.close()
        return said

    assert asyncio.run(story()) == [] == asyncio.run(others(None))


def test_a_socket_that_nobody_listens_at_is_removed_and_noise_is_left_out(folder):
    async def noise(_, writer):
        writer.write(b"{no json")
        writer.close()

    async def story():
        gone = await asyncio.start_unix_server(noise, folder / "front-1.sock")
        gone.close()
        await gone.wait_closed()
        (folder / "front-1.sock").touch()
        loud = await asyncio.start_unix_server(noise, folder / "front-2.sock")
        said = await others(folder)
        loud.close()
        return said

    assert asyncio.run(story()) == []


def test_a_silent_process_costs_its_patience_and_no_more(folder):
    async def story():
        enough, over = asyncio.Event(), asyncio.Event()

        async def silence(_, writer):
            await enough.wait()
            writer.close()
            await writer.wait_closed()
            over.set()

        server = await asyncio.start_unix_server(silence, folder / "front-1.sock")
        said = await asked(folder / "front-1.sock", patience_s=0.2)
        enough.set()
        await over.wait()
        server.close()
        return said

    assert asyncio.run(story()) is None
