"""The stand-in images have what compose.yaml relies on. Building and running them is tested with an engine."""

import tarfile
from pathlib import Path

from deploy.images.__main__ import OWN, names
from deploy.images.debian import Added, Packages, RootFs
from deploy.images.stand_ins import stand_ins
from tests.deployment import stack


def files(name: str) -> dict[str, Added]:
    """What the stand-in for this image has apart from Debian's packages, by path."""
    return {added.path: added for added in stand_ins(Path("mongod"))[name].root.added}


def test_every_image_of_the_stack_has_a_stand_in() -> None:
    """Each image that `up` needs and that is not ours can be built where it cannot be pulled."""
    wanted = {each["image"] for each in stack.containers().values() if not each.get("profiles")}
    assert set(names()[1:]) == {name for name in wanted if not name.startswith(OWN)}
    assert {name.partition(":")[0] for name in names()} == set(stand_ins(Path("mongod")))


def test_a_stand_in_has_the_user_and_the_directories_of_the_real_image() -> None:
    """The user that compose.yaml names exists, and owns the directories that become volumes."""
    for container, name in (("mongodb", "mongo"), ("rabbitmq", "rabbitmq"), ("edge", "nginx")):
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
