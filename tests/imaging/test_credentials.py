"""Content Credentials: which certificates and keys are accepted, and what the library reads back from signed files."""

import hashlib
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import c2pa
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, ObjectIdentifier

from sd_inpaint import __version__
from sd_inpaint.errors import CredentialsExpiredError, SettingsError
from sd_inpaint.imaging import codecs, credentials
from sd_inpaint.imaging.codecs import ImageFormat
from sd_inpaint.imaging.credentials import ContentCredentials, load_credentials
from sd_inpaint.picture import Picture
from sd_inpaint.schema import InpaintResult, Variation
from tests.support.certificates import KEYS, Files, issue
from tests.support.pictures import photo
from tests.support.repository import ROOT

IPTC = "http://cv.iptc.org/newscodes/digitalsourcetype/"
DIGEST = hashlib.sha256(b"an upload").hexdigest()
PICTURE = Picture(np.asarray(photo()))


def result(**changes: Any) -> InpaintResult:
    """A painted picture."""
    facts: dict[str, Any] = {"steps": 2, "inference_seconds": 0.5, "image_sha256": DIGEST, **changes}
    return InpaintResult((Variation(PICTURE, 7),), **facts)


def loaded(files: Files) -> ContentCredentials:
    """What signs with these files."""
    found = load_credentials(files.certificate, files.key)
    assert found is not None
    return found


def read(file: bytes, media_type: str = "image/png", trusted: str | None = None) -> dict[str, Any]:
    """What the library says of a file, and with ``trusted``, to somebody who trusts that authority."""
    settings = {"trust": {"user_anchors": trusted}, "verify": {"verify_trust": True}} if trusted else {}
    with c2pa.Reader(media_type, io.BytesIO(file), context=c2pa.Context.from_dict(settings)) as reader:
        found: dict[str, Any] = json.loads(reader.json())
    return found


def active(found: dict[str, Any]) -> dict[str, Any]:
    """The manifest that counts."""
    manifest: dict[str, Any] = found["manifests"][found["active_manifest"]]
    return manifest


def actions(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """The actions of a manifest."""
    (assertion,) = (each for each in manifest["assertions"] if each["label"] == "c2pa.actions.v2")
    found: list[dict[str, Any]] = assertion["data"]["actions"]
    return found


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """A good certificate, and its key."""
    return issue(tmp_path_factory.mktemp("certificate"))


@pytest.mark.parametrize("image_format", list(ImageFormat))
def test_every_format_is_signed(files: Files, image_format: ImageFormat) -> None:
    """A file of each format carries a signature that is valid, and trusted by who trusts the authority."""
    file = loaded(files).sign(codecs.encode(PICTURE, image_format), image_format, result(), model="demo")
    found = read(file, image_format.media_type, trusted=files.authority)
    assert found["validation_state"] == "Trusted"
    assert read(file, image_format.media_type)["validation_state"] == "Valid"


def test_an_edited_picture_names_its_source(files: Files) -> None:
    """The manifest says what was opened, by digest, what made the change, and that the result is a composite."""
    manifest = active(read(loaded(files).sign(codecs.encode(PICTURE), ImageFormat.PNG, result(), model="demo")))
    generator = manifest["claim_generator_info"][0]
    assert (generator["name"], generator["version"]) == ("sd-inpaint", __version__)
    opened, edited = actions(manifest)
    assert (opened["action"], edited["action"]) == ("c2pa.opened", "c2pa.edited")
    assert edited["digitalSourceType"] == IPTC + "compositeWithTrainedAlgorithmicMedia"
    assert edited["softwareAgent"]["name"] == "demo"
    (ingredient,) = manifest["ingredients"]
    assert ingredient["relationship"] == "parentOf"
    assert ingredient["instance_id"] == f"nih:sha-256;{DIGEST}"


def test_a_picture_that_is_all_painted_was_created(files: Files) -> None:
    """Where nothing of the input is left, the result was created, and the input is no parent of it."""
    file = loaded(files).sign(codecs.encode(PICTURE), ImageFormat.PNG, result(is_all_painted=True), model="demo")
    found = read(file)
    assert found["validation_state"] == "Valid"
    (created,) = actions(active(found))
    assert created["action"] == "c2pa.created"
    assert created["digitalSourceType"] == IPTC + "trainedAlgorithmicMedia"
    assert active(found)["ingredients"][0]["relationship"] == "inputTo"


def test_no_picture_of_the_caller_is_in_the_manifest(files: Files) -> None:
    """Neither the ingredient nor the claim has a thumbnail or any other copy of a picture."""
    file = codecs.encode(PICTURE)
    signed = loaded(files).sign(file, ImageFormat.PNG, result(), model="demo")
    assert "thumbnail" not in json.dumps(read(signed)["manifests"])
    assert len(signed) - len(file) < 16_384


def test_nothing_painted_is_not_signed(files: Files) -> None:
    """A result that is the input stays as it was written."""
    file = codecs.encode(PICTURE)
    assert loaded(files).sign(file, ImageFormat.PNG, result(steps=0), model="demo") == file


def test_a_result_without_a_digest_is_signed(files: Files) -> None:
    """Results of earlier versions name no digest of their input, and are signed all the same."""
    file = loaded(files).sign(codecs.encode(PICTURE), ImageFormat.PNG, result(image_sha256=""), model="demo")
    assert read(file)["validation_state"] == "Valid"
    assert DIGEST not in json.dumps(read(file))


@pytest.mark.parametrize("image_format", list(ImageFormat))
def test_a_changed_byte_is_found(files: Files, image_format: ImageFormat) -> None:
    """One bit changed in the coded pixels, and the file no longer fits its signature."""
    plain = codecs.encode(PICTURE, image_format)
    signed = bytearray(loaded(files).sign(plain, image_format, result(), model="demo"))
    # The middle of the coded pixels: of what the plain file and the signed one both hold.
    middle = signed.index(plain[len(plain) // 2 : len(plain) // 2 + 32])
    signed[middle] ^= 1
    found = read(bytes(signed), image_format.media_type)
    assert found["validation_state"] == "Invalid"
    failures = [each["code"] for each in found["validation_results"]["activeManifest"]["failure"]]
    assert {"assertion.dataHash.mismatch", "assertion.bmffHash.mismatch"} & set(failures)


def test_threads_share_it(files: Files) -> None:
    """Many threads sign at once, each its own file."""
    signs, file = loaded(files), codecs.encode(PICTURE)

    def sign(number: int) -> str:
        signed = signs.sign(file, ImageFormat.PNG, result(), model=f"model {number}")
        found = read(signed)
        assert found["validation_state"] == "Valid"
        return str(actions(active(found))[1]["softwareAgent"]["name"])

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(sign, range(24))) == [f"model {number}" for number in range(24)]


@pytest.mark.parametrize("algorithm", KEYS)
def test_the_algorithm_is_the_keys(tmp_path: Path, algorithm: str) -> None:
    """A key of each kind signs by the algorithm that belongs to it."""
    signs = loaded(issue(tmp_path, key=KEYS[algorithm]()))
    found = read(signs.sign(codecs.encode(PICTURE), ImageFormat.PNG, result(), model="demo"))
    assert found["validation_state"] == "Valid"
    assert active(found)["signature_info"]["alg"].lower() == algorithm


def test_openssls_older_key_format_is_read(tmp_path: Path) -> None:
    """A key as "openssl ecparam -genkey" writes it works too, which the library itself refuses."""
    files = issue(tmp_path, key_format=PrivateFormat.TraditionalOpenSSL)
    assert "BEGIN EC PRIVATE KEY" in files.key.read_text("ascii")
    loaded(files)


@pytest.mark.parametrize("usage", ["1.3.6.1.4.1.62558.2.1", "1.3.6.1.5.5.7.3.36"], ids=["c2pa", "documents"])
def test_other_uses_of_a_certificate_sign_too(tmp_path: Path, usage: str) -> None:
    """C2PA's own extended key usage is accepted, and that of documents."""
    loaded(issue(tmp_path, usage=ObjectIdentifier(usage)))


def test_the_documented_commands_make_a_certificate(tmp_path: Path) -> None:
    """Whoever runs what docs/deploy.md shows has a certificate and a key that sign."""
    section = (ROOT / "docs" / "deploy.md").read_text("utf-8").partition("## Content Credentials")[2]
    (commands,) = (block for block in re.findall(r"```bash\n(.+?)```", section, re.DOTALL) if "openssl" in block)
    subprocess.run(["bash", "-euc", commands], cwd=tmp_path, check=True, capture_output=True, timeout=30)
    loaded(Files(tmp_path / "chain.pem", tmp_path / "signer.key", ""))


def test_without_settings_nothing_is_signed() -> None:
    """No certificate and no key: no credentials, and no error."""
    assert load_credentials(None, None) is None


def _missing_file(folder: Path) -> Files:
    files = issue(folder)
    files.certificate.unlink()
    return files


def _no_certificate(folder: Path) -> Files:
    files = issue(folder)
    files.certificate.write_text("no certificate", "ascii")
    return files


def _no_key(folder: Path) -> Files:
    files = issue(folder)
    files.key.write_bytes(files.certificate.read_bytes())
    return files


def _other_key(folder: Path) -> Files:
    certificate, key = folder / "certificate", folder / "key"
    certificate.mkdir()
    key.mkdir()
    return Files(issue(certificate).certificate, issue(key).key, "")


def _wrong_order(folder: Path) -> Files:
    files = issue(folder)
    other = folder / "other"
    other.mkdir()
    certificate = files.certificate.read_text("ascii").partition("-----END CERTIFICATE-----\n")
    files.certificate.write_text("".join(certificate[:2]) + issue(other).authority, "ascii")
    return files


REFUSED: dict[str, tuple[Callable[[Path], Files], str]] = {
    "a missing file": (_missing_file, "No such file"),
    "no certificate": (_no_certificate, "no certificate in PEM"),
    "no key": (_no_key, "no private key in PEM"),
    "a key of another certificate": (_other_key, "is not the key of the first certificate"),
    "certificates that do not belong together": (_wrong_order, "issued by the next"),
    "an expired certificate": (lambda folder: issue(folder, days=-1), "not today"),
    "a password": (lambda folder: issue(folder, password=b"secret"), "remove its password"),
    "a curve of no algorithm": (lambda folder: issue(folder, key=ec.generate_private_key(ec.SECP256K1())), "P-256"),
    "a short RSA key": (
        lambda folder: issue(folder, key=rsa.generate_private_key(65537, 1024)),  # noqa: S505  # refused for it
        "cannot sign",
    ),
    "a server's certificate": (lambda folder: issue(folder, usage=ExtendedKeyUsageOID.SERVER_AUTH), "cannot sign"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_sign_is_refused(tmp_path: Path, case: str) -> None:
    """Whatever is wrong with certificate or key is found at the start, and said in one sentence."""
    make, reason = REFUSED[case]
    files = make(tmp_path)
    with pytest.raises(SettingsError, match=reason) as caught:
        load_credentials(files.certificate, files.key)
    assert "SD_INPAINT_C2PA_" in str(caught.value)
    assert str(caught.value).endswith(".")


@pytest.mark.parametrize("given", ["certificate", "key"])
def test_one_without_the_other_is_refused(files: Files, given: str) -> None:
    """A certificate without a key signs nothing, nor the reverse."""
    with pytest.raises(SettingsError, match="needs both"):
        load_credentials(**{"certificate": None, "key": None, given: getattr(files, given)})


def test_a_missing_package_is_named(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the library, the message says what to install."""
    monkeypatch.setitem(sys.modules, "c2pa", None)
    with pytest.raises(SettingsError, match=r"install sd-inpaint\[c2pa\]"):
        load_credentials(files.certificate, files.key)


def test_nothing_is_signed_after_expiry(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the certificate expires while the server runs, results are refused and not sent out unsigned."""
    signs = loaded(files)
    assert 363 <= signs.days_left <= 365
    signs.check_valid()
    later = datetime.now(UTC) + timedelta(days=366)

    class Clock(datetime):
        """A year on."""

        @classmethod
        def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
            return later

    monkeypatch.setattr(credentials, "datetime", Clock)
    with pytest.raises(CredentialsExpiredError):
        signs.check_valid()
    with pytest.raises(CredentialsExpiredError):
        signs.sign(codecs.encode(PICTURE), ImageFormat.PNG, result(), model="demo")
