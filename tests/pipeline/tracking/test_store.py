"""Whether MLflow's server answers, as MLflow's own client would find it."""

import datetime
import http.server
import ipaddress
import ssl
import threading
from contextlib import contextmanager

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from pipeline.errors import TrackingError
from pipeline.settings.reading.config_file import load_config
from pipeline.tracking.runs import start_run
from pipeline.tracking.store import is_reachable


class Server(http.server.BaseHTTPRequestHandler):
    """It is healthy, and answers all other requests with one code."""

    code = 200

    def do_GET(self):
        self.send_response(200 if self.path == "/health" else self.code)
        self.end_headers()


@contextmanager
def served(certificate=None):
    """The address of a server at which `Server` answers."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    ("code", "reachable"), [(200, True), (401, True), (404, True), (500, False), (503, False)]
)
def test_a_server_without_its_database_is_down(code, reachable, monkeypatch):
    monkeypatch.setattr(Server, "code", code)
    with served() as place:
        for address in (f"http://{place}", f"http://{place}/", f"http://me:secret@{place}"):
            asked = is_reachable(load_config(None, [f"tracking.uri={address}"]))
            assert asked is reachable


def test_a_server_without_the_calls_of_mlflow_3_is_told(tmp_path, monkeypatch):
    """The message was a page of HTML, and said to start the server, or that it would be back."""
    monkeypatch.setattr(Server, "code", 404)
    with served() as place:
        config = load_config(None, [f"tracking.uri=http://{place}", f"run.storage={tmp_path}"])
        with pytest.raises(TrackingError, match="Update a server of MLflow 2; if it") as raised:
            start_run(config, "run", {})
    assert "start the server" not in str(raised.value)


def own_certificate(path):
    """A file with a key and a certificate for 127.0.0.1 that nobody has signed but itself."""
    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    place = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(place, critical=False)
        .sign(key, hashes.SHA256())
    )
    encoding, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    form = serialization.PrivateFormat.PKCS8
    path.write_bytes(key.private_bytes(encoding, form, plain) + made.public_bytes(encoding))


@pytest.mark.parametrize(
    "variable",
    ["", "MLFLOW_TRACKING_INSECURE_TLS", "MLFLOW_TRACKING_SERVER_CERT_PATH", "REQUESTS_CA_BUNDLE"],
)
@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
def test_a_server_that_mlflow_trusts_is_reachable(variable, tmp_path, monkeypatch):
    own_certificate(path := tmp_path / "own.pem")
    if variable:
        monkeypatch.setenv(variable, "true" if "INSECURE" in variable else str(path))
    with served(path) as place:
        asked = is_reachable(load_config(None, [f"tracking.uri=https://{place}"]))
    assert asked is bool(variable)
