"""A certificate of one's own for an address."""

from __future__ import annotations

import subprocess
from pathlib import Path


def make_certificate(folder: Path, address: str = "127.0.0.1") -> tuple[Path, Path]:
    """Certificate and key as PEM files; clients trust the certificate itself."""
    certificate, key = folder / "box.pem", folder / "box.key"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", f"/CN={address}", "-addext", f"subjectAltName=IP:{address}"),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    return certificate, key
