"""Lists what is installed with the package, as CycloneDX: each package of a lock with its version and its hashes."""

import datetime as dt
import re
import uuid
from collections.abc import Iterable
from pathlib import Path

from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, XsUri
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import LicenseExpression
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

_PACKAGE = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s;\\]+)(?P<rest>(?:.*\\\n)*.*)", re.MULTILINE)
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


def write_sbom(path: Path, *, version: str, wheel_sha256: str, lock: Path, seconds: int) -> None:
    """Writes the list; the same release gives the same bytes.

    Args:
        path: The JSON file to write.
        version: Of this package.
        wheel_sha256: Of its wheel; names the list too.
        lock: The lock whose packages it is installed with.
        seconds: Unix time of the release.
    """
    package = Component(
        name="sd-inpaint",
        version=version,
        type=ComponentType.APPLICATION,
        bom_ref="sd-inpaint",
        purl=PackageURL("pypi", name="sd-inpaint", version=version),
        licenses=[LicenseExpression("Apache-2.0")],
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=wheel_sha256)],
    )
    bom = Bom(
        serial_number=uuid.uuid5(uuid.NAMESPACE_OID, wheel_sha256),
        metadata=BomMetaData(component=package, timestamp=dt.datetime.fromtimestamp(seconds, dt.UTC)),
        components=list(locked_components(lock.read_text("utf-8"))),
    )
    bom.register_dependency(package, bom.components)
    path.write_text(JsonV1Dot6(bom).output_as_string(indent=1) + "\n", "utf-8")


def locked_components(lock: str) -> Iterable[Component]:
    """Gives each package of a lock, with the hashes of all its files: which of them fits, the machine decides."""
    for found in _PACKAGE.finditer(lock):
        name, version = found["name"], found["version"]
        hashes = [HashType(alg=HashAlgorithm.SHA_256, content=each) for each in _HASH.findall(found["rest"])]
        purl = PackageURL("pypi", name=name, version=version)
        # CycloneDX has checksums of several files only beside a reference; which index they come from is the reader's.
        files = ExternalReference(type=ExternalReferenceType.DISTRIBUTION, url=XsUri(purl.to_string()), hashes=hashes)
        yield Component(
            name=name, version=version, purl=purl, bom_ref=f"{name}=={version}", external_references=[files]
        )
