"""The nginx configuration of docs/security.md, to be read and to be run."""

from __future__ import annotations

import datetime as dt
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

PAGE = Path(__file__).parents[2] / "docs/security.md"
#: The program; None where it is not installed.
PROGRAM = shutil.which("nginx", path=f"{os.environ['PATH']}{os.pathsep}/usr/sbin{os.pathsep}/usr/local/sbin")


@dataclass(frozen=True)
class Directive:
    """A directive, and the names of the blocks around it."""

    words: tuple[str, ...]
    blocks: tuple[str, ...]


def documented() -> str:
    """The configuration that the page tells people to use."""
    (found,) = re.findall(r"^```nginx\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    return str(found)


def directives(configuration: str) -> list[Directive]:
    """The directives of a configuration in order; ValueError where it is not well-formed."""
    found: list[Directive] = []
    blocks: list[str] = []
    words: list[str] = []
    for token in re.findall(r"[{};]|[^\s{};]+", re.sub(r"#.*", "", configuration)):
        if token not in "{};":
            words.append(token)
            continue
        if (token == "}") == bool(words):
            raise ValueError(f"{token!r} after {words}")
        if token == "}":
            blocks.pop()  # IndexError, a LookupError, where none is open
        else:
            found.append(Directive(tuple(words), tuple(blocks)))
            blocks += [words[0]] if token == "{" else []
        words = []
    if words or blocks:
        raise ValueError(f"the end comes inside {words or blocks}")
    return found


def runnable(folder: Path, *, port: int, api: str) -> Path:
    """Write the documented configuration for one run: another port, another API, a certificate of its own."""
    certificate, key = _certificate(folder)
    text = documented()
    for was, now in {
        "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
        "/etc/nginx/distildire.crt": str(certificate),
        "/etc/nginx/distildire.key": str(key),
        "http://127.0.0.1:8000": api,
    }.items():
        assert text.count(was) == 1, was
        text = text.replace(was, now)
    (folder / "distildire.conf").write_text(text)
    main = folder / "nginx.conf"
    paths = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = "".join(f"{name}_temp_path {folder}/{name};\n" for name in paths)
    main.write_text(
        f"{'user root;' if os.geteuid() == 0 else ''}\n"
        f"daemon off;\npid {folder}/nginx.pid;\nerror_log stderr;\nevents {{}}\n"
        f"http {{\naccess_log off;\n{temporary}include {folder}/distildire.conf;\n}}\n"
    )
    return main


def command(main: Path, *options: str) -> list[str]:
    """How nginx is called with a configuration."""
    assert PROGRAM is not None
    return [PROGRAM, "-p", str(main.parent), "-e", "stderr", "-c", str(main), *options]


def check(main: Path) -> str:
    """What `nginx -t` says; an error where it refuses."""
    return subprocess.run(command(main, "-t"), check=True, capture_output=True, text=True).stderr


def _certificate(folder: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "certificate.pem", folder / "key.pem"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return paths
