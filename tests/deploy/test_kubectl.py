"""The documents' commands for Kubernetes, as far as they go without a cluster.

kubectl reads each command and finds nothing wrong with it before it looks for a cluster; the secrets that it would make
are those that the manifests mount; what a command names is in the manifests.
"""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.deploy.debian import ROOT
from tests.deploy.kubernetes import (
    KUBERNETES,
    VARIANTS,
    Manifest,
    bridged,
    containers_of,
    manifests,
    needs_kubectl,
    pods,
    workloads,
)

pytestmark = needs_kubectl

DOCUMENTS = (*(ROOT / "deploy").glob("*.md"), *KUBERNETES.glob("*/kustomization.yaml"))
NOWHERE = "http://127.0.0.1:1"
NOBODY_ANSWERS = re.compile(r"connect: connection refused|connection to the server .* was refused")


def commands() -> list[str]:
    """Return every command of the documents, on one line: in blocks, between back-ticks, and in comments."""
    found: set[str] = set()
    for path in DOCUMENTS:
        text = path.read_text()
        found |= set(re.findall(r"^(?:# +)?(kubectl .*)$", text, re.MULTILINE))
        found |= {" ".join(one.split()) for one in re.findall(r"`(kubectl\s[^`]+)`", text)}
    return sorted(found)


def kubectl(folder: Path, command: str, *more: str) -> subprocess.CompletedProcess[str]:
    """Run a command of a document in a folder that is like the checkout."""
    words = [*command.split(), *more]
    here = {"HOME": str(folder), "PATH": "/usr/bin:/bin"}
    return subprocess.run(
        words, cwd=folder, env=here, capture_output=True, text=True, check=False, timeout=60
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give a folder with our manifests, and with the files that secrets are made of."""
    (tmp_path / "deploy").symlink_to(ROOT / "deploy")
    for name in ("api-key", "api-secret", "feed.creds", "ca.crt"):
        (tmp_path / name).write_text(name)
    return tmp_path


def test_there_are_commands():
    """The documents tell how to set up, to update, to go back and to look."""
    verbs = {one.split()[1] for one in commands()}
    assert verbs >= {"label", "create", "apply", "rollout", "delete", "logs", "port-forward", "drain"}


@pytest.mark.parametrize("command", commands())
def test_kubectl_takes_every_command(folder, command):
    """All that is missing is a cluster; a word too many, or a wrong option, would be found before that."""
    named = " x" if command in {"kubectl delete pod", "kubectl drain"} else ""  # cut short in a sentence
    done = kubectl(folder, f"{command}{named}", "--server", NOWHERE)
    assert done.returncode != 0
    assert NOBODY_ANSWERS.search(done.stderr), done.stderr
    wrong = kubectl(folder, f"{command}{named}", "--server", NOWHERE, "--no-such-option")
    assert not NOBODY_ANSWERS.search(wrong.stderr)


def everything(folder: Path) -> list[Manifest]:
    """Return all that the manifests say, with the bridge and without."""
    return [
        one
        for variant in VARIANTS
        for one in (*manifests(variant), *bridged(variant, folder / f"{variant} with the bridge"))
    ]


def test_the_secrets_are_those_of_the_manifests(folder):
    """Every secret that a pod mounts is made by a command, and has the files that the pod looks for in it."""
    made: dict[str, set[str]] = {}
    for command in commands():
        if command.startswith("kubectl create secret"):
            done = kubectl(folder, command, "--dry-run=client", "--output=yaml")
            assert done.returncode == 0, done.stderr
            secret = yaml.safe_load(done.stdout)
            made[secret["metadata"]["name"]] = set(secret["data"])
    mounted = {
        volume["secret"]["secretName"]
        for pod in pods(everything(folder))
        for volume in pod["volumes"]
        if "secret" in volume
    }
    assert set(made) == mounted
    text = yaml.safe_dump_all(everything(folder))
    for files in made.values():
        for file in files:
            assert re.search(rf"/run/secrets/\w+/{re.escape(file)}\b", text), file


def test_what_a_command_names_is_there(folder):
    """Workloads, containers, the node's label, and the folder of manifests."""
    made, told = everything(folder), commands()
    for command in told:
        for kind, name in re.findall(r"\b(statefulset|deployment) (\w+)", command):
            assert (kind, name) in {(one["kind"].lower(), one["metadata"]["name"]) for one in workloads(made)}
        for name in re.findall(r"--container (\w+)", command):
            assert name in {one["name"] for pod in pods(made) for one in containers_of(pod)}
        for path in re.findall(r"--kustomize (\S+)", command):
            assert kubectl(folder, f"kubectl kustomize {path}").stdout.count("\nkind: ") > 2
    (label,) = {one.partition("NODE ")[2] for one in told if one.startswith("kubectl label node")}
    (pair,) = (one for one in manifests("pair") if one["kind"] == "StatefulSet")
    assert dict([label.split("=")]) == pair["spec"]["template"]["spec"]["nodeSelector"]
