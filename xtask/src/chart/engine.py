"""Renders a chart by Helm's own engine, lints it, and holds every object against schemas of Kubernetes.

One JSON object in on stdin, one out on stdout:

    {"chart": folder, "versions": ["1.30", ...], "renders": [{"name", "release", "namespace", "values": YAML}, ...],
     "manifests": {name: YAML}}
    {"appVersion", "defaults": values, "lint": [...], "manifests": {name: [objects]}, "renders": {name: {"files": {path: text}, "objects": [...], "lint": [...]}
     or {"error"}},
     "invalid": [{"render", "object", "version", "problem"}, ...]}

With "package": folder, the chart is packed into that folder instead, and its path is said.
Nothing is asked of a network or a cluster.
"""

import functools
import json
import sys

import helm_python
import kubernetes_validate.utils as kubernetes
import yaml

# Every object is held against the same few files.
kubernetes.schema_contents = functools.lru_cache(maxsize=None)(kubernetes.schema_contents)

# Kinds that are not Kubernetes' own; no schema of them is at hand.
CUSTOM = {
    ("monitoring.coreos.com/v1", "PodMonitor"),
    ("monitoring.coreos.com/v1", "ServiceMonitor"),
    ("monitoring.coreos.com/v1", "PrometheusRule"),
    ("cert-manager.io/v1", "Issuer"),
    ("cert-manager.io/v1", "Certificate"),
}


def main():
    request = json.load(sys.stdin)
    if "package" in request:
        json.dump(helm_python.package(request["chart"], destination=request["package"]), sys.stdout)
        return
    with helm_python.Chart.load(request["chart"]) as chart:
        answer = {
            "appVersion": chart.metadata.get("appVersion"),
            "defaults": chart.values,
            "lint": lint(request["chart"], {}),
            "renders": {
                render["name"]: rendered(request["chart"], chart, render) for render in request["renders"]
            },
        }
    answer["manifests"] = {name: objects(text) for name, text in request["manifests"].items()}
    answer["invalid"] = [
        problem
        for name, render in answer["renders"].items()
        for thing in render.get("objects", [])
        for problem in problems(name, thing, request["versions"])
    ]
    json.dump(answer, sys.stdout)


def lint(folder, values):
    return helm_python.lint(folder, values, strict=True)["messages"]


def rendered(folder, chart, render):
    values = yaml.safe_load(render["values"]) or {}
    try:
        texts = chart.render(values, name=render["release"], namespace=render["namespace"])
    except helm_python.HelmError as error:
        return {"error": str(error)}
    files = {path: text for path, text in texts.items() if text.strip()}
    manifests = [text for path, text in sorted(files.items()) if path.endswith(".yaml")]
    things = [thing for text in manifests for thing in objects(text)]
    return {"files": files, "objects": things, "lint": lint(folder, values)}


def objects(text):
    return [thing for thing in yaml.safe_load_all(text) if isinstance(thing, dict)]


def problems(render, thing, versions):
    if (thing["apiVersion"], thing["kind"]) in CUSTOM:
        return
    for version in versions:
        try:
            kubernetes.validate(thing, version, strict=True)
        except (kubernetes.ValidationError, kubernetes.SchemaNotFoundError) as error:
            where = ".".join(str(part) for part in getattr(error, "path", []))
            problem = f"{where}: {error.message}" if where else error.message
            named = f"{thing['kind']}/{thing['metadata']['name']}"
            yield {"render": render, "object": named, "version": version, "problem": problem}


if __name__ == "__main__":
    main()
