"""The image, built once for all tests."""

from collections.abc import Iterator
from pathlib import Path

import debian
import pytest
from image.container import Store, base_name, make_base

IMAGE = "localhost/agentd:test"


@pytest.fixture(scope="session")
def store() -> Iterator[Store]:
    debian.require("buildah", "unshare", "nsenter")
    root = debian.base_root()
    store = Store(debian.cache() / f"buildah-{root.name}")
    if not store.has(base_name()):
        make_base(store, root)
    yield store
    if store.has(IMAGE):
        store.buildah("rmi", "--force", IMAGE)


@pytest.fixture(scope="session")
def image(store: Store) -> str:
    store.buildah(
        "build", "--format=docker", "--pull-never", f"--tag={IMAGE}",
        f"--ignorefile={debian.REPOSITORY / '.dockerignore'}", debian.REPOSITORY,
    )  # fmt: skip
    return IMAGE


@pytest.fixture(scope="session")
def unpacked(store: Store, image: str) -> Iterator[Path]:
    with store.unpacked(image) as root:
        yield root


@pytest.fixture
def root(unpacked: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of the image's files that one test may change."""
    with debian.copy_of(unpacked, tmp_path / "image") as root:
        yield root
