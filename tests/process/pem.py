"""Certificates for tests: an authority, leaves of it for 127.0.0.1 or for a client, as PEM files."""

import datetime
import ipaddress
import os
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

DAY = datetime.timedelta(days=1)


class Authority:
    """Keeps its files in a directory: ca.pem, and NAME.pem with NAME.key for each leaf."""

    def __init__(self, directory: Path, name: str = "test authority") -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory, self.ca = directory, directory / "ca.pem"
        self._revoked: list[int] = []
        self._key, self._name = ec.generate_private_key(ec.SECP256R1()), _name(name)
        builder = _builder(self._name, self._name, self._key.public_key())
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        self.ca.write_bytes(builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    def leaf(self, name: str, *, days: int = 30, into: str | None = None) -> tuple[Path, Path]:
        """A certificate and its key for 127.0.0.1 and localhost; files are replaced at once, the key first."""
        key = ec.generate_private_key(ec.SECP256R1())
        names: list[x509.GeneralName] = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        builder = _builder(_name(name), self._name, key.public_key(), days)
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        cert = builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        kinds = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        cert_path, key_path = (self.directory / f"{into or name}.{ending}" for ending in ("pem", "key"))
        for path, data in ((key_path, key.private_bytes(*kinds)), (cert_path, cert)):
            fresh = path.with_suffix(".new")
            fresh.write_bytes(data)
            os.replace(fresh, path)
        return cert_path, key_path

    def revoke(self, cert: Path | None = None, *, days: int = 7) -> Path:
        """The authority's revocation list, crl.pem, anew: with this certificate too."""
        now = datetime.datetime.now(datetime.UTC)
        if cert is not None:
            self._revoked.append(x509.load_pem_x509_certificate(cert.read_bytes()).serial_number)
        builder = x509.CertificateRevocationListBuilder().issuer_name(self._name)
        builder = builder.last_update(now - 2 * abs(days) * DAY).next_update(now + days * DAY)
        for serial in self._revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now)
            builder = builder.add_revoked_certificate(entry.build())
        path = self.directory / "crl.pem"
        fresh = path.with_suffix(".new")
        fresh.write_bytes(builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        os.replace(fresh, path)
        return path


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int = 30
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    builder = builder.serial_number(x509.random_serial_number())
    return builder.not_valid_before(now - 2 * abs(days) * DAY).not_valid_after(now + days * DAY)
