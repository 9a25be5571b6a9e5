"""A run's own certificate authority, its server's certificate, and its workers' keys.

Made for one run and gone with it. TLS (elliptic curves, P-384) guards every connection; a worker
proves who it is with a key that the server was told of before (Flower's SuperNode authentication).
"""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from flwr.supercore.primitives.asymmetric import (
    bytes_to_private_key,
    generate_key_pairs,
    private_key_to_bytes,
    public_key_to_bytes,
)

from flautim_lab.records.artifacts import write_atomic

VALID_DAYS = 30
_CLOCKS_DIFFER = datetime.timedelta(hours=1)
_PEM = serialization.Encoding.PEM


@dataclass(frozen=True)
class ServerFiles:
    """Where a server's TLS files lie: the authority's certificate, its own, and its key."""

    authority: Path
    certificate: Path
    key: Path


def make_server_files(folder: Path, hosts: Sequence[str]) -> ServerFiles:
    """Make a certificate authority and a server certificate for a run.

    The authority's private key is not written: nobody can sign another certificate afterwards.

    Parameters
    ----------
    folder : Path
        Gets three files of mode 0600.
    hosts : sequence of str
        Names and addresses under which the server is reached.
    """
    authority_key = ec.generate_private_key(ec.SECP384R1())
    authority = _certificate(
        "Flautim Lab run authority", authority_key.public_key(), None, authority_key, hosts=()
    )
    key = ec.generate_private_key(ec.SECP384R1())
    certificate = _certificate(
        "Flautim Lab server", key.public_key(), authority, authority_key, hosts=hosts
    )
    return ServerFiles(
        authority=write_atomic(folder / "authority.pem", authority.public_bytes(_PEM)),
        certificate=write_atomic(folder / "server.pem", certificate.public_bytes(_PEM)),
        key=write_atomic(folder / "server.key", private_key_to_bytes(key)),
    )


def make_worker_key(path: Path) -> bytes:
    """Make a worker's key pair; the private key goes to ``path`` (mode 0600).

    Returns
    -------
    bytes
        The public key, as Flower names a node by it.
    """
    private, public = generate_key_pairs()
    write_atomic(path, private_key_to_bytes(private))
    return public_key_to_bytes(public)


def read_worker_key(
    path: Path,
) -> tuple[ec.EllipticCurvePrivateKey, ec.EllipticCurvePublicKey]:
    """Read the key pair of :func:`make_worker_key`."""
    private = bytes_to_private_key(path.read_bytes())
    return private, private.public_key()


def _certificate(
    subject: str,
    public: ec.EllipticCurvePublicKey,
    issuer: x509.Certificate | None,
    signer: ec.EllipticCurvePrivateKey,
    hosts: Sequence[str],
) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
    is_authority = issuer is None
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name if issuer is None else issuer.subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCKS_DIFFER)
        .not_valid_after(now + datetime.timedelta(days=VALID_DAYS))
        .add_extension(x509.BasicConstraints(is_authority, 0 if is_authority else None), True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), False
        )
        .add_extension(
            x509.KeyUsage(
                digital_signature=True,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                key_cert_sign=is_authority,
                crl_sign=is_authority,
                encipher_only=False,
                decipher_only=False,
            ),
            True,
        )
    )
    if hosts:
        names = [_general_name(host) for host in hosts]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), False)
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
        builder = builder.add_extension(usage, False)
    return builder.sign(signer, hashes.SHA384())


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
