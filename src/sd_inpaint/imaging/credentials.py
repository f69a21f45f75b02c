"""Content Credentials: a signed statement in a result's file of what made it and from what, by the C2PA standard.

The Content Authenticity Initiative's library writes and signs it. It is loaded only where an operator has a
certificate. Nothing here uses the network: no time stamp is fetched, and nobody is asked whether the certificate still
stands.
"""

import io
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from sd_inpaint import __version__
from sd_inpaint.errors import CredentialsExpiredError, SettingsError
from sd_inpaint.imaging import codecs, provenance
from sd_inpaint.picture import Picture
from sd_inpaint.schema import InpaintResult, Variation

if TYPE_CHECKING:
    from c2pa import Context, Signer
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
    from cryptography.x509 import Certificate

CERTIFICATE: Final = "SD_INPAINT_C2PA_CERTIFICATE"
KEY: Final = "SD_INPAINT_C2PA_KEY"

_CURVES: Final = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}
"""Elliptic curve → algorithm. Source: C2PA technical specification, "Digital signatures"."""

_USES: Final = (
    "1.3.6.1.5.5.7.3.4",  # e-mail
    "1.3.6.1.5.5.7.3.36",  # documents
    "1.3.6.1.4.1.62558.2.1",  # C2PA
    "1.3.6.1.4.1.311.76.59.1.9",  # C2PA, Microsoft's
)
"""Extended key usages that sign Content Credentials. Source: the configuration beside C2PA's trust list, store.cfg. The
library knows them when it signs, and only the first when it checks."""


class ContentCredentials:
    """Signs files with one certificate. Lives as long as the process; any thread may call it.

    Args:
        signer: The library's, of certificate and key.
        valid_from: When the certificate's validity begins.
        valid_until: When it ends.

    Attributes:
        valid_until: As given.
    """

    def __init__(self, signer: "Signer", valid_from: datetime, valid_until: datetime) -> None:
        self._signer = signer
        self._context = _context(verifies=False)
        self._valid_from = valid_from
        self.valid_until = valid_until

    @property
    def days_left(self) -> int:
        """Whole days until the certificate expires; negative after it."""
        return (self.valid_until - datetime.now(UTC)).days

    def check_valid(self) -> None:
        """Raises CredentialsExpiredError outside the certificate's validity, when nothing can be signed."""
        now = datetime.now(UTC)
        if not self._valid_from <= now <= self.valid_until:
            raise CredentialsExpiredError(
                f"Results cannot be signed: the server's certificate is valid from {self._valid_from:%Y-%m-%d} to "
                f"{self.valid_until:%Y-%m-%d}."
            )

    def sign(self, file: bytes, image_format: codecs.ImageFormat, result: InpaintResult, *, model: str) -> bytes:
        """Signs one of a result's files. Takes as long as the file is large.

        Args:
            file: As :func:`~sd_inpaint.imaging.codecs.encode` wrote it.
            image_format: Its format.
            result: What it shows.
            model: The model's name as callers know it.

        Returns:
            The file with its manifest, the same pixels and the same metadata; as it was where nothing was painted.

        Raises:
            CredentialsExpiredError: Outside the certificate's validity.
        """
        if result.steps == 0:
            return file
        self.check_valid()
        return _sign(self._signer, self._context, file, image_format, _manifest(result, model))


def load_credentials(certificate: Path | None, key: Path | None) -> ContentCredentials | None:
    """Reads what an operator signs results with, and tries it.

    Args:
        certificate: A PEM file of the certificate and those that it is issued by, its own first.
        key: A PEM file of its private key, without a password.

    Returns:
        None where neither is given.

    Raises:
        SettingsError: If one is missing or cannot be used, or the library is not installed; the message says why.
    """
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        missing, present = (CERTIFICATE, KEY) if certificate is None else (KEY, CERTIFICATE)
        raise SettingsError(f"{present} is set and {missing} is not: signing results needs both.")
    try:
        import c2pa  # noqa: F401  # whether it is installed
    except ImportError as error:
        raise SettingsError(
            f"{CERTIFICATE} is set, but c2pa-python is not installed: install sd-inpaint[c2pa]."
        ) from error
    chain, private_key = _read_chain(certificate), _read_key(key)
    algorithm = _algorithm(private_key, key)
    _check_chain(chain, private_key, certificate, key)
    return ContentCredentials(
        _make_signer(algorithm, chain, private_key, certificate),
        max(each.not_valid_before_utc for each in chain),
        min(each.not_valid_after_utc for each in chain),
    )


def _make_signer(
    algorithm: str, chain: "list[Certificate]", private_key: "PrivateKeyTypes", certificate: Path
) -> "Signer":
    import c2pa
    from cryptography.hazmat.primitives import serialization

    # The library reads this form only; openssl writes others too.
    pem = private_key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    chain_pem = b"".join(each.public_bytes(serialization.Encoding.PEM) for each in chain)
    try:
        signer = c2pa.Signer.from_info(c2pa.C2paSignerInfo(algorithm, chain_pem, pem, None))
        _try(signer)
    except c2pa.C2paError as error:
        # Several lines, the last of which ends in an address within the file that was tried.
        reason = " ".join(str(error).split()).partition(" (self#")[0]
        raise SettingsError(
            f"{certificate} ({CERTIFICATE}) cannot sign Content Credentials ({reason}): docs/deploy.md says what a "
            "certificate needs."
        ) from error
    return signer


def _read(path: Path, setting: str) -> bytes:
    try:
        return path.expanduser().read_bytes()
    except OSError as error:
        raise SettingsError(f"{path} ({setting}) cannot be read: {error.strerror}.") from error


def _read_chain(path: Path) -> "list[Certificate]":
    from cryptography import x509

    data = _read(path, CERTIFICATE)
    try:
        return x509.load_pem_x509_certificates(data)
    except ValueError as error:
        raise SettingsError(f"{path} ({CERTIFICATE}) contains no certificate in PEM.") from error


def _read_key(path: Path) -> "PrivateKeyTypes":
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization

    data = _read(path, KEY)
    try:
        return serialization.load_pem_private_key(data, password=None)
    except TypeError as error:
        raise SettingsError(f"{path} ({KEY}) is encrypted: remove its password.") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise SettingsError(f"{path} ({KEY}) contains no private key in PEM.") from error


def _algorithm(private_key: "PrivateKeyTypes", path: Path) -> str:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    if isinstance(private_key, ed25519.Ed25519PrivateKey):
        return "ed25519"
    if isinstance(private_key, rsa.RSAPrivateKey):
        return "ps256"
    if isinstance(private_key, ec.EllipticCurvePrivateKey) and private_key.curve.name in _CURVES:
        return _CURVES[private_key.curve.name]
    raise SettingsError(f"{path} ({KEY}) must be a key of P-256, P-384, P-521, Ed25519 or RSA.")


def _check_chain(chain: "list[Certificate]", private_key: "PrivateKeyTypes", certificate: Path, key: Path) -> None:
    from cryptography.exceptions import InvalidSignature

    if chain[0].public_key() != private_key.public_key():
        raise SettingsError(f"{key} ({KEY}) is not the key of the first certificate in {certificate} ({CERTIFICATE}).")
    now = datetime.now(UTC)
    for each in chain:
        start, end = each.not_valid_before_utc, each.not_valid_after_utc
        if not start <= now <= end:
            raise SettingsError(
                f"A certificate in {certificate} ({CERTIFICATE}) is valid from {start:%Y-%m-%d} to {end:%Y-%m-%d}, "
                "not today."
            )
    for issued, issuer in pairwise(chain):
        try:
            issued.verify_directly_issued_by(issuer)
        except (ValueError, TypeError, InvalidSignature) as error:
            raise SettingsError(
                f"The certificates in {certificate} ({CERTIFICATE}) are not in order: each must be issued by the next."
            ) from error


def _try(signer: "Signer") -> None:
    """Signs a pixel and checks the signature; raises what the library does."""
    picture = Picture(np.zeros((1, 1, 3), np.uint8))
    result = InpaintResult((Variation(picture, 0),), steps=1, inference_seconds=0.0)
    _sign(signer, _context(verifies=True), codecs.encode(picture), codecs.ImageFormat.PNG, _manifest(result, "model"))


def _context(*, verifies: bool) -> "Context":
    import c2pa

    return c2pa.Context.from_dict(
        {
            # A thumbnail would be one more copy of the picture, in a file that is the picture.
            "builder": {"thumbnail": {"enabled": False}},
            "trust": {"trust_config": "\n".join(_USES)},
            "verify": {"ocsp_fetch": False, "remote_manifest_fetch": False, "verify_after_sign": verifies},
        }
    )


def _sign(
    signer: "Signer", context: "Context", file: bytes, image_format: codecs.ImageFormat, manifest: dict[str, object]
) -> bytes:
    import c2pa

    signed = io.BytesIO()
    with c2pa.Builder(manifest, context=context) as builder:
        builder.sign(signer, image_format.media_type, io.BytesIO(file), signed)
    return signed.getvalue()


def _manifest(result: InpaintResult, model: str) -> dict[str, object]:
    """What is signed: nothing of the request but its image's digest.

    Source: C2PA technical specification, "Actions" and "Ingredient".
    """
    ingredient = {
        "label": "image",
        "title": "image",
        # A picture of which nothing is left has not been edited; it was something to start from.
        "relationship": "inputTo" if result.is_all_painted else "parentOf",
    }
    if result.image_sha256:
        # RFC 6920, section 7: a name that anybody who has the file can compute.
        ingredient["instance_id"] = f"nih:sha-256;{result.image_sha256}"
    uses: dict[str, object] = {"parameters": {"ingredientIds": [ingredient["label"]]}}
    painting: dict[str, object] = {
        "digitalSourceType": provenance.source_type(result),
        "softwareAgent": {"name": provenance.writable(model)},
    }
    if result.is_all_painted:
        actions = [{"action": "c2pa.created", **painting, **uses}]
    else:
        actions = [{"action": "c2pa.opened", **uses}, {"action": "c2pa.edited", **painting}]
    return {
        "claim_generator_info": [{"name": "sd-inpaint", "version": __version__}],
        "ingredients": [ingredient],
        "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": actions}}],
    }
