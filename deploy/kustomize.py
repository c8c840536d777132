"""Renders the kustomizations of `deploy/kubernetes` as `kubectl kustomize` does, for the part of it that they use.

So the manifests can be checked where there is no kubectl. Whatever is not understood is an error, never ignored. Two
things differ from kubectl: the order of objects, and generated ConfigMaps have no hash in their names.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

Object = dict[str, Any]

CLUSTER_WIDE = frozenset({"Namespace"})
MERGED_BY = {
    "containers": "name",
    "env": "name",
    "ports": "containerPort",
    "topologySpreadConstraints": "topologyKey",
    "volumeMounts": "mountPath",
    "volumes": "name",
}
"""Lists of a pod that a patch adds to, and the field that tells their elements apart. It replaces all other lists."""


class NotUnderstood(Exception):
    """The kustomization uses something that is not implemented here; the message is one line."""


def render(directory: Path) -> list[Object]:
    """All objects of the kustomization in this directory. Raises NotUnderstood."""
    file = directory / "kustomization.yaml"
    wanted = _checked(
        yaml.safe_load(file.read_text()),
        file,
        {"apiVersion", "kind", "namespace", "resources", "configMapGenerator", "patches", "labels", "images"},
    )
    objects = [each for name in wanted.get("resources", ()) for each in _resources(directory / name)]
    for generator in wanted.get("configMapGenerator", ()):
        _generate(objects, _checked(generator, file, {"name", "files", "behavior"}), directory)
    for each in objects:
        if "namespace" in wanted and each["kind"] not in CLUSTER_WIDE:
            each["metadata"]["namespace"] = wanted["namespace"]
    for patch in wanted.get("patches", ()):
        _patch(objects, _checked(patch, file, {"path", "target"}), directory)
    for labels in wanted.get("labels", ()):
        _label(objects, _checked(labels, file, {"pairs", "includeTemplates"}))
    for image in wanted.get("images", ()):
        _name_image(objects, _checked(image, file, {"name", "newName", "newTag"}))
    return objects


def pod_template(each: Object) -> Object | None:
    """The template of the pods that a workload makes; None for other objects."""
    spec = each.get("spec", {})
    spec = spec.get("jobTemplate", {"spec": spec})["spec"]
    template: Object | None = spec.get("template")
    return template


def containers(each: Object) -> list[Object]:
    """The containers of a workload's pods; none for other objects."""
    template = pod_template(each)
    return [] if template is None else [*template["spec"].get("initContainers", ()), *template["spec"]["containers"]]


def _checked(given: Object, file: Path, understood: set[str]) -> Object:
    if unknown := given.keys() - understood:
        raise NotUnderstood(f"{file}: {', '.join(sorted(unknown))}")
    return given


def _documents(file: Path) -> list[Object]:
    return [each for each in yaml.safe_load_all(file.read_text()) if each]


def _resources(path: Path) -> list[Object]:
    return render(path.resolve()) if path.is_dir() else _documents(path)


def _generate(objects: list[Object], generator: Object, directory: Path) -> None:
    name, data = generator["name"], {file: (directory / file).read_text() for file in generator["files"]}
    if generator.get("behavior") == "merge":
        (there,) = [each for each in objects if (each["kind"], each["metadata"]["name"]) == ("ConfigMap", name)]
        there["data"].update(data)
    else:
        objects.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})


def _patch(objects: list[Object], entry: Object, directory: Path) -> None:
    """Apply each patch of the file to the objects that the target selects, or to the one that it names itself."""
    file = directory / entry["path"]
    for patch in _documents(file):
        target = entry.get("target", {"kind": patch["kind"], "name": patch["metadata"]["name"]})
        selected = [
            each for each in objects if _selects(_checked(target, file, {"kind", "name", "labelSelector"}), each)
        ]
        if not selected:
            raise NotUnderstood(f"{file}: selects nothing")
        change = {key: value for key, value in patch.items() if key not in {"apiVersion", "kind"}}
        change["metadata"] = {key: value for key, value in patch["metadata"].items() if key != "name"}
        for each in selected:
            _merge(each, change, file)


def _selects(target: Mapping[str, str], each: Object) -> bool:
    metadata = each["metadata"]
    label, _, value = target.get("labelSelector", "").partition("=")
    return (
        each["kind"] == target["kind"]
        and target.get("name", metadata["name"]) == metadata["name"]
        and (not label or metadata.get("labels", {}).get(label) == value)
    )


def _merge(into: Object, change: Mapping[str, Any], file: Path) -> None:
    """A strategic merge: objects are merged, and so are the lists in MERGED_BY; other values are replaced."""
    for key, value in change.items():
        if key.startswith("$") or value is None:
            raise NotUnderstood(f"{file}: {key}: {value}")
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value, file)
        elif isinstance(value, list) and key in MERGED_BY and into.get(key):
            by = MERGED_BY[key]
            there = {element[by]: element for element in into[key]}
            for element in value:
                if element[by] in there:
                    _merge(there[element[by]], element, file)
                else:
                    into[key].append(_copy(element))
        else:
            into[key] = _copy(value)


def _copy(value: Any) -> Any:
    """Without anything shared, so that a later patch changes one object only."""
    if isinstance(value, dict):
        return {key: _copy(each) for key, each in value.items()}
    return [_copy(each) for each in value] if isinstance(value, list) else value


def _label(objects: list[Object], labels: Object) -> None:
    for holder in _labelled(objects, bool(labels.get("includeTemplates"))):
        holder.setdefault("labels", {}).update(labels["pairs"])


def _labelled(objects: list[Object], templates: bool) -> Iterator[Object]:
    for each in objects:
        yield each["metadata"]
        if templates and (template := pod_template(each)) is not None:
            yield template.setdefault("metadata", {})
        if templates and "jobTemplate" in each.get("spec", {}):
            yield each["spec"]["jobTemplate"].setdefault("metadata", {})


def _name_image(objects: list[Object], image: Object) -> None:
    for container in (container for each in objects for container in containers(each)):
        name, _, tag = container["image"].partition(":")
        if name == image["name"]:
            container["image"] = f"{image.get('newName', name)}:{image.get('newTag', tag)}"
