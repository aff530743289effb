"Both clients over TLS: with a certificate that is trusted, and with one that is not."

import asyncio
import datetime
import ipaddress
import ssl
import threading

import numpy as np
import pytest

from seatrial.base.settings import CannotDo
from seatrial.client.asynchronous import AsyncClient
from seatrial.client.blocking import Client
from tests.client.test_conversations import Sea

x509 = pytest.importorskip("cryptography.x509")


def certificate(folder):
    "A certificate for 127.0.0.1 that signs itself, with its key, as a file."
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "sea")])
    today, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    made = made.serial_number(1).not_valid_before(today - day).not_valid_after(today + day)
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    signed = made.add_extension(names, critical=False).sign(key, hashes.SHA256())
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    file = folder / "sea.pem"
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)
    file.write_bytes(signed.public_bytes(pem) + private)
    return file


@pytest.fixture(scope="module")
def secret(tmp_path_factory):
    "A server that sums rows over TLS: its address, and a context that trusts it."
    file = certificate(tmp_path_factory.mktemp("tls"))
    with Sea() as server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        server.handle_error = lambda *_: None  # whoever does not trust it hangs up
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.url.replace("http:", "https:"), ssl.create_default_context(cafile=file)
        server.shutdown()
        thread.join()


def test_rows_small_and_large_are_answered_over_tls_on_few_connections(secret):
    url, context = secret
    x = np.random.default_rng(0).normal(size=(200_000, 2)).astype(np.float32)
    with Client(url, context=context) as client:
        for k in range(5):
            assert client.predict("sum", {"x": [k, 1]}).outputs["y"].tolist() == [k + 1]
        assert len(client.wires.idle) == 1
        np.testing.assert_array_equal(client.predict("sum", {"x": x}).outputs["y"], x.sum(1))

    async def asking():
        async with AsyncClient(url, context=context) as client:
            for k in range(5):
                assert (await client.predict("sum", {"x": [k, 1]})).outputs["y"].tolist() == [k + 1]
            assert len(client.pool.idle) == 1
            return (await client.predict("sum", {"x": x})).outputs["y"]

    np.testing.assert_array_equal(asyncio.run(asking()), x.sum(1))


def test_a_server_that_nobody_vouches_for_is_told_nothing(secret):
    url, _ = secret
    with Client(url, retries=0) as client, pytest.raises(CannotDo, match="certificate verify failed"):
        client.metadata("sum")

    async def asking():
        async with AsyncClient(url, retries=0) as client:
            await client.metadata("sum")

    with pytest.raises(CannotDo, match="certificate verify failed"):
        asyncio.run(asking())
